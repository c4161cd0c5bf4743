"""double_sparsity_utils: channel files."""

from __future__ import annotations

import json

import pytest
import torch

from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations import utils
from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils.double_sparsity_utils import (
    extract_layer_channels,
    load_sorted_channels_from_file,
    validate_channel_data,
)

KEY = "model.layers.0.self_attn.qk_proj"
GOOD = {KEY: [[2, 0, 1], [1, 2, 0]], "model.layers.1.self_attn.q_proj": [[0, 1, 2]]}
BAD = [
    ({KEY: 4}, f"Channel data for {KEY} must be a list, got int"),
    ({KEY: [[1], 4]}, rf"Channel data for {KEY}\[1\] must be a list, got int"),
    ({KEY: [[1], ["a"]]}, rf"Channel indices for {KEY}\[1\] must be integers, got 'a'"),
    ({KEY: [[1.5]]}, rf"Channel indices for {KEY}\[0\] must be integers, got 1.5"),
    ({KEY: [[True]]}, rf"Channel indices for {KEY}\[0\] must be integers, got True"),
]


def written(tmp_path, text):
    path = tmp_path / "channels.json"
    path.write_text(text)
    return path


def test_exports():
    assert utils.load_sorted_channels_from_file is load_sorted_channels_from_file
    assert utils.extract_layer_channels is extract_layer_channels
    assert utils.validate_channel_data is validate_channel_data


@pytest.mark.parametrize("as_text", [False, True])
def test_good_file(tmp_path, as_text):
    path = written(tmp_path, json.dumps(GOOD))
    assert load_sorted_channels_from_file(str(path) if as_text else path) == GOOD


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="Channel file not found: .*none.json"):
        load_sorted_channels_from_file(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "{", '{"a": }'])
def test_not_json(tmp_path, text):
    with pytest.raises(ValueError, match="Invalid JSON in channel file: .*channels.json: "):
        load_sorted_channels_from_file(written(tmp_path, text))


def test_not_text(tmp_path):
    (tmp_path / "channels.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="Invalid JSON in channel file"):
        load_sorted_channels_from_file(tmp_path / "channels.json")


@pytest.mark.parametrize("text", ["[1]", "4", "null"])
def test_not_an_object(tmp_path, text):
    with pytest.raises(ValueError, match="Channel file must contain a JSON object"):
        load_sorted_channels_from_file(written(tmp_path, text))


@pytest.mark.parametrize(("data", "message"), BAD)
def test_structure(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        validate_channel_data(data)
    with pytest.raises(ValueError, match=message):
        load_sorted_channels_from_file(written(tmp_path, json.dumps(data)))


def test_valid_data():
    validate_channel_data(GOOD)
    validate_channel_data({})
    validate_channel_data({KEY: []})
    with pytest.raises(ValueError, match="Channel data must be a dictionary, got list"):
        validate_channel_data([1])


def test_layer():
    channels = extract_layer_channels(GOOD, 0, "qk_proj", torch.device("cpu"))
    assert channels.dtype == torch.int64 and channels.tolist() == GOOD[KEY]
    assert extract_layer_channels(GOOD, 1, "q_proj", "cpu").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("layer", "projection"), [(0, "q_proj"), (2, "qk_proj")])
def test_layer_that_is_not_there(layer, projection):
    with pytest.raises(ValueError, match=f"No sorted channels found for model.layers.{layer}.self_attn.{projection}"):
        extract_layer_channels(GOOD, layer, projection, torch.device("cpu"))


def test_layer_without_or_with_uneven_channels():
    with pytest.raises(ValueError, match=f"Empty channel data for {KEY}"):
        extract_layer_channels({KEY: []}, 0, "qk_proj", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"as many channels for each head, got \[1, 2\]"):
        extract_layer_channels({KEY: [[0], [1, 0]]}, 0, "qk_proj", torch.device("cpu"))
