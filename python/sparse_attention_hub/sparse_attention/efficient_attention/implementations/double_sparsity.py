"""Double Sparsity as an efficient engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...base import SparseAttentionConfig
from ...research_attention.maskers.base import plain_value
from ..base import EfficientAttentionConfig
from ..pipeline_attention import PipelineAttention


@dataclass
class ChannelConfig:
    """Where `DoubleSparsity` finds the channels that matter.

    Attributes:
        sorted_channel_file: JSON file of channels by importance, from `sah calibrate` or the Python hub.
        channel_selection: Which importance of the file: "q_proj", "k_proj" or "qk_proj"; default: that of
            `DoubleSparsityTopKMaskerConfig`.
    """

    sorted_channel_file: str = ""
    channel_selection: str | None = None


@dataclass
class DoubleSparsityConfig(EfficientAttentionConfig):
    """Config of `DoubleSparsity`; values are checked where attention first runs.

    Attributes:
        heavy_size: Keys to keep beside sinks and window: an int is a count, a float a fraction of the keys.
        sink_size: Leading keys to keep; 0: none.
        local_size: Latest keys to keep; 0: none.
        ds_channel_config: Channels by importance, or their file.
        ds_bits: Bits of a channel's value.
        ds_group_factor: dim / ds_group_factor channels are used.
    """

    heavy_size: int | float
    sink_size: int
    local_size: int
    ds_channel_config: ChannelConfig | str
    ds_bits: int
    ds_group_factor: int | float

    def to_entry(self) -> dict[str, Any]:
        channels: Any = self.ds_channel_config
        if isinstance(channels, ChannelConfig):
            channels = {name: value for name, value in vars(channels).items() if value is not None}
        elif not isinstance(channels, str):
            raise TypeError(f"ds_channel_config must be a ChannelConfig or the path of its file, got {type(channels)}")
        factor = plain_value(self.ds_group_factor)
        return {
            "type": "double_sparsity",
            "heavy_size": plain_value(self.heavy_size),
            "sink_size": plain_value(self.sink_size),
            "local_size": plain_value(self.local_size),
            "ds_channel_config": channels,
            "ds_bits": plain_value(self.ds_bits),
            "ds_group_factor": int(factor) if isinstance(factor, float) and factor.is_integer() else factor,
        }


class DoubleSparsity(PipelineAttention):
    """Sinks, window, and top-k on few quantised channels: what the research engine does with `SinkMaskerConfig`,
    `LocalMaskerConfig` and `DoubleSparsityTopKMaskerConfig`, as `sparse_attention_config` says."""

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
