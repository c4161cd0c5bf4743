"""The config class of every masker by its type in JSON, but of the causal masker, whose config is the base class."""

from __future__ import annotations

from sparse_attention_hub import sparse_attention as sa

CONFIG_TYPES = {
    config.masker_type: config
    for config in (
        sa.AdaptiveSamplingMaskerConfig,
        sa.DoubleSparsityTopKMaskerConfig,
        sa.HashAttentionTopKMaskerConfig,
        sa.LightningIndexerMaskerConfig,
        sa.LocalMaskerConfig,
        sa.MagicPigConfig,
        sa.OracleTopKConfig,
        sa.OracleTopPMaskerConfig,
        sa.PQCacheConfig,
        sa.QuestTopKMaskerConfig,
        sa.RandomSamplingMaskerConfig,
        sa.SinkMaskerConfig,
        sa.SnapKVMaskerConfig,
        sa.SocketMaskerConfig,
    )
}
