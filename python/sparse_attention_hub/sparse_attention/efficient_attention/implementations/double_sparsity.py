"""Double Sparsity as an efficient engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...base import SparseAttentionConfig
from ..base import EfficientAttention, EfficientAttentionConfig


@dataclass
class ChannelConfig:
    """A name that the Python hub reserves."""


@dataclass
class DoubleSparsityConfig(EfficientAttentionConfig):
    """Config of `DoubleSparsity`; values are not checked.

    Attributes:
        heavy_size: Keys to keep beside sinks and window.
        sink_size: Leading keys to keep.
        local_size: Latest keys to keep.
        ds_channel_config: Channels by importance.
        ds_bits: Bits of a channel's value.
        ds_group_factor: dim / ds_group_factor channels are used.
    """

    heavy_size: int | float
    sink_size: int
    local_size: int
    ds_channel_config: ChannelConfig | str
    ds_bits: int
    ds_group_factor: int | float


class DoubleSparsity(EfficientAttention):
    """Sinks, window, and top-k on few quantised channels."""

    def __init__(
        self,
        sparse_attention_config: SparseAttentionConfig,
        group_factor: int | float,
        label_bits: int,
        channel_config: ChannelConfig | str,
    ) -> None:
        super().__init__(sparse_attention_config)
        self.group_factor = group_factor
        self.label_bits = label_bits
        self.channel_config = channel_config

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> DoubleSparsity:
        """
        Raises:
            TypeError: `config` is not a `DoubleSparsityConfig`.
        """
        if not isinstance(config, DoubleSparsityConfig):
            raise TypeError(f"Expected DoubleSparsityConfig, got {type(config)}")
        return cls(config, config.ds_group_factor, config.ds_bits, config.ds_channel_config)

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
            NotImplementedError: Always; the research engine runs sink, local and `DoubleSparsityTopKMasker`.
        """
        raise NotImplementedError(
            "DoubleSparsity: this version has no efficient engine; use ResearchAttention with SinkMaskerConfig, "
            "LocalMaskerConfig and DoubleSparsityTopKMaskerConfig"
        )
