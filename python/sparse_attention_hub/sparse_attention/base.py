"""The base of sparse attention engines and of their configs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class SparseAttentionConfig:
    """Base of the configs of sparse attention."""


class SparseAttention(ABC):
    """Attention over the keys that a method selects."""

    def __init__(self, sparse_attention_config: SparseAttentionConfig) -> None:
        self.sparse_attention_config = sparse_attention_config

    @abstractmethod
    def custom_attention(
        self,
        module: torch.nn.Module | None,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One attention step.

        Args:
            module: The host model's attention layer; only its `training` is looked at. None: not training.
            queries: [batch, query heads, queries, dim].
            keys: [batch, KV heads, keys, dim].
            values: [batch, KV heads, keys, value dim].
            attention_mask: Additive, [batch or 1, heads or 1, queries or 1, >= keys], or None.
            scaling: Factor of the logits q.k.
            dropout: Of the attention weights while training.
            **kwargs: `layer_idx`, `sparse_meta_data`, and whatever else the host model passes.

        Returns:
            The output [batch, queries, query heads, value dim] in the queries' type, and the attention weights [batch,
            query heads, queries, keys] or None.
        """

    def pre_attention_hook_generator(self) -> None:
        """Has no effect."""

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> SparseAttention:
        """The engine of a config, by the config's type."""
        from .efficient_attention.base import EfficientAttention, EfficientAttentionConfig
        from .research_attention.base import ResearchAttention, ResearchAttentionConfig

        if isinstance(config, ResearchAttentionConfig):
            return ResearchAttention.create_from_config(config)
        if isinstance(config, EfficientAttentionConfig):
            return EfficientAttention.create_from_config(config)
        return cls(config)
