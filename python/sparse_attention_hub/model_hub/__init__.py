"""The adapter interfaces under the name of their first release."""

from .attention_adapter import (
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
