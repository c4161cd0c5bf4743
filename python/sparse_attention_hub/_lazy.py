"""Names of a package that are imported when they are first used (PEP 562).

`import sparse_attention_hub` must stay cheap, and some of its modules import transformers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the `__getattr__` and `__dir__` of a package whose names load on first use.

    Args:
        package: `__name__` of the package.
        modules: public name to the module that defines it, relative to the package (".base").

    Returns:
        `__getattr__`, which raises AttributeError for any other name, and `__dir__`.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get_attribute, list_names
