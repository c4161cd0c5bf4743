"""The adapter interfaces of `sparse_attention_hub.adapters.base`."""

from ...adapters.base import (
    ModelAdapter,
    ModelHubAdapterInterface,
    Request,
    RequestResponse,
    SparseAttentionAdapterInterface,
)

__all__ = [
    "ModelAdapter",
    "ModelHubAdapterInterface",
    "Request",
    "RequestResponse",
    "SparseAttentionAdapterInterface",
]
