"""The parts of the index methods, one module a method."""

from __future__ import annotations

from .double_sparsity_utils import extract_layer_channels, load_sorted_channels_from_file, validate_channel_data

__all__ = ["extract_layer_channels", "load_sorted_channels_from_file", "validate_channel_data"]
