"""Channel files of Double Sparsity: for each layer and head the channels of q and k, the most important first.

A JSON object whose members are `model.layers.{layer}.self_attn.{projection}`, lists with one permutation of the channels for
each query head. `sah calibrate` writes such files.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Union

import torch

SortedChannels = Dict[str, List[List[int]]]


def load_sorted_channels_from_file(file_path: Union[str, "os.PathLike[str]"]) -> SortedChannels:
    """Reads a channel file.

    Raises:
        ValueError: There is no such file, it is not JSON, or `validate_channel_data` refuses it.
    """
    try:
        with open(file_path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError as error:
        raise ValueError(f"Channel file not found: {os.fspath(file_path)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Invalid JSON in channel file: {os.fspath(file_path)}: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"Channel file must contain a JSON object, got {type(data).__name__}")
    validate_channel_data(data)
    return data


def extract_layer_channels(
    sorted_channels: SortedChannels, layer_idx: int, projection_type: str, device: Union[torch.device, str]
) -> torch.Tensor:
    """One layer's permutations, int64 [heads, channels].

    Args:
        sorted_channels: What `load_sorted_channels_from_file` returns.
        layer_idx: The layer.
        projection_type: "q_proj", "k_proj" or "qk_proj".
        device: Where the tensor goes.

    Raises:
        ValueError: The file has nothing on them, or heads have different numbers of channels.
    """
    key = f"model.layers.{layer_idx}.self_attn.{projection_type}"
    if key not in sorted_channels:
        raise ValueError(f"No sorted channels found for {key}")
    channels = sorted_channels[key]
    if not channels:
        raise ValueError(f"Empty channel data for {key}")
    lengths = {len(head) for head in channels}
    if len(lengths) > 1:
        raise ValueError(f"Channel data for {key} must have as many channels for each head, got {sorted(lengths)}")
    return torch.tensor(channels, dtype=torch.int64, device=device)


def validate_channel_data(data: Any) -> None:
    """Checks the structure of channel data, whatever its keys.

    Raises:
        ValueError: It is no dictionary of lists of lists of integers.
    """
    if not isinstance(data, dict):
        raise ValueError(f"Channel data must be a dictionary, got {type(data).__name__}")
    for key, heads in data.items():
        if not isinstance(heads, list):
            raise ValueError(f"Channel data for {key} must be a list, got {type(heads).__name__}")
        for i, channels in enumerate(heads):
            if not isinstance(channels, list):
                raise ValueError(f"Channel data for {key}[{i}] must be a list, got {type(channels).__name__}")
            for channel in channels:
                if not isinstance(channel, int) or isinstance(channel, bool):
                    raise ValueError(f"Channel indices for {key}[{i}] must be integers, got {channel!r}")
