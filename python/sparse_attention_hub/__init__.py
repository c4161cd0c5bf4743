"""Sparse attention for long-context language models.

    import sparse_attention_hub as sah
    with sah.sparse(model, "vattention.json"):
        model.generate(**inputs, max_new_tokens=64)

The names and the module tree are those of the Python `sparse_attention_hub`; what they compute is C++ (`_core`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch as _torch  # before _core, which finds LibTorch's symbols in the process

from ._lazy import lazy_exports
from ._torch_version import check as _check_torch_version

_check_torch_version(_torch.__version__)

from .metric_logging import JsonlSink, MemorySink, MicroMetricLogger
from .plotting import Granularity, PlotGenerator
from .sparse_attention import (
    AdaptiveSamplingMasker,
    AdaptiveSamplingMaskerConfig,
    CausalMasker,
    ChannelConfig,
    DoubleSparsity,
    DoubleSparsityConfig,
    DoubleSparsityTopKMasker,
    DoubleSparsityTopKMaskerConfig,
    EfficientAttention,
    EfficientAttentionConfig,
    FixedMasker,
    FixedMaskerConfig,
    HashAttention,
    HashAttentionConfig,
    HashAttentionTopKMasker,
    HashAttentionTopKMaskerConfig,
    LightningIndexerMasker,
    LightningIndexerMaskerConfig,
    LocalMasker,
    LocalMaskerConfig,
    MagicPig,
    MagicPigConfig,
    Mask,
    MaskerConfig,
    MaskerRegistry,
    OracleTopK,
    OracleTopKConfig,
    OracleTopPMasker,
    OracleTopPMaskerConfig,
    PQCache,
    PQCacheConfig,
    QuestTopKMasker,
    QuestTopKMaskerConfig,
    RandomSamplingMasker,
    RandomSamplingMaskerConfig,
    ResearchAttention,
    ResearchAttentionConfig,
    ResearchMasker,
    SamplingMasker,
    SamplingMaskerConfig,
    SinkMasker,
    SinkMaskerConfig,
    SnapKVMasker,
    SnapKVMaskerConfig,
    SocketMasker,
    SocketMaskerConfig,
    SparseAttention,
    SparseAttentionConfig,
    SparseAttentionMetadata,
    TopKMasker,
    TopKMaskerConfig,
    TopPMasker,
    TopPMaskerConfig,
)

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

__all__ = [
    "AdaptiveSamplingMasker",
    "AdaptiveSamplingMaskerConfig",
    "CausalMasker",
    "ChannelConfig",
    "DoubleSparsity",
    "DoubleSparsityConfig",
    "DoubleSparsityTopKMasker",
    "DoubleSparsityTopKMaskerConfig",
    "EfficientAttention",
    "EfficientAttentionConfig",
    "FixedMasker",
    "FixedMaskerConfig",
    "Granularity",
    "HashAttention",
    "HashAttentionConfig",
    "HashAttentionTopKMasker",
    "HashAttentionTopKMaskerConfig",
    "JsonlSink",
    "LightningIndexerMasker",
    "LightningIndexerMaskerConfig",
    "LocalMasker",
    "LocalMaskerConfig",
    "MagicPig",
    "MagicPigConfig",
    "Mask",
    "MaskerConfig",
    "MaskerRegistry",
    "MemorySink",
    "MicroMetricLogger",
    "ModelAdapter",
    "ModelAdapterHF",
    "ModelHubAdapterInterface",
    "OracleTopK",
    "OracleTopKConfig",
    "OracleTopPMasker",
    "OracleTopPMaskerConfig",
    "PQCache",
    "PQCacheConfig",
    "PlotGenerator",
    "QuestTopKMasker",
    "QuestTopKMaskerConfig",
    "RandomSamplingMasker",
    "RandomSamplingMaskerConfig",
    "Request",
    "RequestResponse",
    "ResearchAttention",
    "ResearchAttentionConfig",
    "ResearchMasker",
    "SamplingMasker",
    "SamplingMaskerConfig",
    "SinkMasker",
    "SinkMaskerConfig",
    "SnapKVMasker",
    "SnapKVMaskerConfig",
    "SocketMasker",
    "SocketMaskerConfig",
    "SparseAttention",
    "SparseAttentionAdapterInterface",
    "SparseAttentionConfig",
    "SparseAttentionMetadata",
    "TopKMasker",
    "TopKMaskerConfig",
    "TopPMasker",
    "TopPMaskerConfig",
    "sparse",
]

if not TYPE_CHECKING:  # a checker would take any name for one that loads at its first use
    # They import transformers, or lead there.
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "ModelAdapter": ".adapters",
            "ModelAdapterHF": ".adapters",
            "ModelHubAdapterInterface": ".adapters",
            "Request": ".adapters",
            "RequestResponse": ".adapters",
            "SparseAttentionAdapterInterface": ".adapters",
            "sparse": ".transformers",
        },
    )
