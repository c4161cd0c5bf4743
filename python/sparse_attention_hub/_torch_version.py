"""Whether the compiled module may run with the torch at hand: LibTorch's C++ interface changes with minor versions."""

from __future__ import annotations


def check(torch_version: str) -> None:
    """Loads the compiled module.

    Raises:
        ImportError: It was built with another minor version of torch, or does not load.
    """
    try:
        from . import _core
    except ImportError as error:
        raise ImportError(
            f"the compiled module of sparse_attention_hub does not load with torch {torch_version}: {error}"
        ) from error
    if torch_version.split(".")[:2] != _core.torch_version.split(".")[:2]:
        raise ImportError(
            f"this build of sparse_attention_hub is for torch {_core.torch_version}, found torch {torch_version}: "
            "install that torch, or build the wheel with this one"
        )
