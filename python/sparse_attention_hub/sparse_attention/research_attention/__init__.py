"""The research engine: any pipeline of maskers, with an explicit mask."""

from __future__ import annotations

from .base import ResearchAttention, ResearchAttentionConfig

__all__ = ["ResearchAttention", "ResearchAttentionConfig"]
