"""HashAttention as an efficient engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...base import SparseAttentionConfig
from ..base import EfficientAttention, EfficientAttentionConfig


@dataclass
class HashAttentionConfig(EfficientAttentionConfig):
    """Config of `HashAttention`; values are not checked.

    Attributes:
        heavy_size: Keys to keep beside sinks and window.
        sink_size: Leading keys to keep.
        local_size: Latest keys to keep.
        hat_weights: Weights by layer, or their file.
        hat_bits: Bits of a signature.
        hat_mlp_layers: Linear maps of an MLP.
        hat_mlp_hidden_size: Width between them.
    """

    heavy_size: int | float
    sink_size: int
    local_size: int
    hat_weights: Any
    hat_bits: int
    hat_mlp_layers: int
    hat_mlp_hidden_size: int


class HashAttention(EfficientAttention):
    """Sinks, window, and top-k on learned bit signatures."""

    def __init__(
        self,
        sparse_attention_config: SparseAttentionConfig,
        hat_bits: int,
        hat_mlp_layers: int,
        hat_mlp_hidden_size: int,
        hat_weights: Any,
    ) -> None:
        super().__init__(sparse_attention_config)
        self.hat_bits = hat_bits
        self.hat_mlp_layers = hat_mlp_layers
        self.hat_mlp_hidden_size = hat_mlp_hidden_size
        self.hat_weights = hat_weights

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> HashAttention:
        """
        Raises:
            TypeError: `config` is not a `HashAttentionConfig`.
        """
        if not isinstance(config, HashAttentionConfig):
            raise TypeError(f"Expected HashAttentionConfig, got {type(config)}")
        return cls(config, config.hat_bits, config.hat_mlp_layers, config.hat_mlp_hidden_size, config.hat_weights)

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
        """
        Raises:
            NotImplementedError: Always; the research engine runs sink, local and `HashAttentionTopKMasker`.
        """
        raise NotImplementedError(
            "HashAttention: this version has no efficient engine; use ResearchAttention with SinkMaskerConfig, "
            "LocalMaskerConfig and HashAttentionTopKMaskerConfig"
        )
