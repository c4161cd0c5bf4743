"""Sparse attention for long-context language models.

    import sparse_attention_hub as sah
    with sah.sparse(model, "vattention.json"):
        model.generate(**inputs, max_new_tokens=64)

The names and the module tree are those of the Python `sparse_attention_hub`; what they compute is C++ (`_core`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch as _torch  # noqa: F401  before _core, which finds LibTorch's symbols in the process

from .metric_logging import MicroMetricLogger
from .plotting import Granularity, PlotGenerator
from .sparse_attention import *  # noqa: F401,F403
from .sparse_attention import __all__ as _sparse_attention

if TYPE_CHECKING:
    from .adapters import (
        ModelAdapter,
        ModelAdapterHF,
        ModelHubAdapterInterface,
        Request,
        RequestResponse,
        SparseAttentionAdapterInterface,
    )
    from .transformers import sparse

__version__ = "0.1.0"

# Loaded at their first use: they import transformers, or lead there.
_LAZY = {
    "ModelAdapter": ".adapters",
    "ModelAdapterHF": ".adapters",
    "ModelHubAdapterInterface": ".adapters",
    "Request": ".adapters",
    "RequestResponse": ".adapters",
    "SparseAttentionAdapterInterface": ".adapters",
    "sparse": ".transformers",
}

__all__ = [
    "Granularity",
    "MicroMetricLogger",
    "ModelAdapter",
    "ModelAdapterHF",
    "ModelHubAdapterInterface",
    "PlotGenerator",
    "Request",
    "RequestResponse",
    "SparseAttentionAdapterInterface",
    "sparse",
    *_sparse_attention,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
