"""Methods that run in the efficient engine, by the Python hub's names."""

from __future__ import annotations

from .base import EfficientAttention, EfficientAttentionConfig

__all__ = ["EfficientAttention", "EfficientAttentionConfig"]
