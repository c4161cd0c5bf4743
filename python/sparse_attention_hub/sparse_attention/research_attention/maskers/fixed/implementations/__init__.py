"""The fixed maskers, a module a method."""

from __future__ import annotations

from .basic_fixed import CausalMasker, LocalMasker, LocalMaskerConfig, SinkMasker, SinkMaskerConfig
from .double_sparsity_top_k import DoubleSparsityTopKMasker, DoubleSparsityTopKMaskerConfig
from .hashattention_top_k import HashAttentionTopKMasker, HashAttentionTopKMaskerConfig
from .lightning_indexer import LightningIndexerMasker, LightningIndexerMaskerConfig
from .oracle_top_k import OracleTopK, OracleTopKConfig
from .oracle_top_p import OracleTopPMasker, OracleTopPMaskerConfig
from .pq_top_k import PQCache, PQCacheConfig
from .quest_top_k import QuestTopKMasker, QuestTopKMaskerConfig
from .snap_kv import SnapKVMasker, SnapKVMaskerConfig
from .socket_top_k import SocketMasker, SocketMaskerConfig

__all__ = [
    "CausalMasker",
    "DoubleSparsityTopKMasker",
    "DoubleSparsityTopKMaskerConfig",
    "HashAttentionTopKMasker",
    "HashAttentionTopKMaskerConfig",
    "LightningIndexerMasker",
    "LightningIndexerMaskerConfig",
    "LocalMasker",
    "LocalMaskerConfig",
    "OracleTopK",
    "OracleTopKConfig",
    "OracleTopPMasker",
    "OracleTopPMaskerConfig",
    "PQCache",
    "PQCacheConfig",
    "QuestTopKMasker",
    "QuestTopKMaskerConfig",
    "SinkMasker",
    "SinkMaskerConfig",
    "SnapKVMasker",
    "SnapKVMaskerConfig",
    "SocketMasker",
    "SocketMaskerConfig",
]
