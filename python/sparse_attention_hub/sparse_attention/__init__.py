"""Sparse attention: engines, maskers and masks."""

from __future__ import annotations

from .base import SparseAttention, SparseAttentionConfig
from .efficient_attention import EfficientAttention, EfficientAttentionConfig
from .efficient_attention.implementations import (
    ChannelConfig,
    DoubleSparsity,
    DoubleSparsityConfig,
    HashAttention,
    HashAttentionConfig,
)
from .metadata import SparseAttentionMetadata
from .research_attention import ResearchAttention, ResearchAttentionConfig
from .research_attention.maskers import MaskerConfig, MaskerRegistry, ResearchMasker
from .research_attention.maskers import fixed as _fixed
from .research_attention.maskers import sampling as _sampling
from .research_attention.maskers.fixed import *  # noqa: F401,F403
from .research_attention.maskers.sampling import *  # noqa: F401,F403
from .utils import Mask

__all__ = [
    "ChannelConfig",
    "DoubleSparsity",
    "DoubleSparsityConfig",
    "EfficientAttention",
    "EfficientAttentionConfig",
    "HashAttention",
    "HashAttentionConfig",
    "Mask",
    "MaskerConfig",
    "MaskerRegistry",
    "ResearchAttention",
    "ResearchAttentionConfig",
    "ResearchMasker",
    "SparseAttention",
    "SparseAttentionConfig",
    "SparseAttentionMetadata",
    *_fixed.__all__,
    *_sampling.__all__,
]
