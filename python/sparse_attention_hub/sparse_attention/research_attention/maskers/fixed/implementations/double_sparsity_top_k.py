"""Double Sparsity: top-k on few quantised channels (Yang et al., 2024)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...base import AttentionTensorDimensions, MaskerConfig, MaskerRegistry, SparseMetaData
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig
from .utils.double_sparsity_utils import extract_layer_channels, load_sorted_channels_from_file


@dataclass
class DoubleSparsityTopKMaskerConfig(TopKMaskerConfig):
    """Config of `DoubleSparsityTopKMasker`.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        sorted_channel_file: JSON file of channels by importance, from `sah calibrate` or the Python hub.
        group_factor: dim / group_factor channels are used.
        label_bits: Bits of a channel's value, 1 to 16; 16: not quantised.
        channel_selection: Which importance of the file: "q_proj", "k_proj" or "qk_proj".
        search_space: For sweeps.
    """

    masker_type: ClassVar[str] = "double_sparsity_top_k"

    sorted_channel_file: str
    group_factor: int = 16
    label_bits: int = 4
    channel_selection: str = "qk_proj"
    search_space: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not os.path.exists(self.sorted_channel_file):
            raise ValueError(f"sorted_channel_file does not exist: {self.sorted_channel_file}")


@MaskerRegistry.register(DoubleSparsityTopKMaskerConfig)
class DoubleSparsityTopKMasker(CoreMasker, TopKMasker):
    """Keeps the keys whose product with the query is highest over a few channels, a list of channels a layer."""

    config_class = DoubleSparsityTopKMaskerConfig
    needs_meta_data = True
    keeps_state = True
    reads_files_late = True

    def __init__(self, config: MaskerConfig) -> None:
        assert isinstance(config, DoubleSparsityTopKMaskerConfig)
        self.sorted_channel_file = config.sorted_channel_file
        self.group_factor = config.group_factor
        self.label_bits = config.label_bits
        self.channel_selection = config.channel_selection
        self.sorted_channels: torch.Tensor | None = None
        super().__init__(config)

    def _validate_inputs(self, sparse_meta_data: SparseMetaData | None, kwargs: dict[str, Any]) -> int:
        layer = kwargs.get("layer_idx")
        if not isinstance(layer, int):
            raise ValueError("layer_idx must be provided in kwargs")
        return layer

    def _ensure_sorted_channel_is_loaded(self, layer_idx: int, device: torch.device | str) -> torch.Tensor:
        """The channels of a layer, int64 [heads, dim], kept in `sorted_channels`."""
        channels = load_sorted_channels_from_file(self.sorted_channel_file)
        self.sorted_channels = extract_layer_channels(channels, layer_idx, self.channel_selection, torch.device(device))
        return self.sorted_channels

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, heavy_size: int) -> bool:
        return dims.seq_len_keys - dims.seq_len_queries <= heavy_size
