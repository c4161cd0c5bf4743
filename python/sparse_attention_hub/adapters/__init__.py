"""Adapters: requests in, answers out, with sparse attention while a model answers.

Names load on first use, since `ModelAdapterHF` and `ModelServerHF` import transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_exports

if TYPE_CHECKING:
    from .base import (
        ModelAdapter,
        ModelHubAdapterInterface,
        Request,
        RequestResponse,
        SparseAttentionAdapterInterface,
    )
    from .huggingface import ModelAdapterHF
    from .model_servers.base import ModelEntry, ModelServer, TokenizerEntry, server_for
    from .model_servers.huggingface import ModelServerHF
    from .utils.config import ModelServerConfig
    from .utils.exceptions import (
        ModelCreationError,
        ModelServerConflictError,
        ModelServerError,
        ReferenceCountError,
        ResourceCleanupError,
        TokenizerCreationError,
    )
    from .utils.gpu_utils import cleanup_gpu_memory

__all__ = [
    "ModelAdapter",
    "ModelAdapterHF",
    "ModelCreationError",
    "ModelEntry",
    "ModelHubAdapterInterface",
    "ModelServer",
    "ModelServerConfig",
    "ModelServerConflictError",
    "ModelServerError",
    "ModelServerHF",
    "ReferenceCountError",
    "Request",
    "RequestResponse",
    "ResourceCleanupError",
    "SparseAttentionAdapterInterface",
    "TokenizerCreationError",
    "TokenizerEntry",
    "cleanup_gpu_memory",
    "server_for",
]

if not TYPE_CHECKING:  # a checker would take any name for one that loads at its first use
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "ModelAdapter": ".base",
            "ModelAdapterHF": ".huggingface",
            "ModelCreationError": ".utils.exceptions",
            "ModelEntry": ".model_servers.base",
            "ModelHubAdapterInterface": ".base",
            "ModelServer": ".model_servers.base",
            "ModelServerConfig": ".utils.config",
            "ModelServerConflictError": ".utils.exceptions",
            "ModelServerError": ".utils.exceptions",
            "ModelServerHF": ".model_servers.huggingface",
            "ReferenceCountError": ".utils.exceptions",
            "Request": ".base",
            "RequestResponse": ".base",
            "ResourceCleanupError": ".utils.exceptions",
            "SparseAttentionAdapterInterface": ".base",
            "TokenizerCreationError": ".utils.exceptions",
            "TokenizerEntry": ".model_servers.base",
            "cleanup_gpu_memory": ".utils.gpu_utils",
            "server_for": ".model_servers.base",
        },
    )
