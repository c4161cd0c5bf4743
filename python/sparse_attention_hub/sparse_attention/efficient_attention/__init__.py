"""The efficient engine's names; its kernels are not part of this version."""

from __future__ import annotations

from .base import EfficientAttention, EfficientAttentionConfig

__all__ = ["EfficientAttention", "EfficientAttentionConfig"]
