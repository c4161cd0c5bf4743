"""hashattention_utils: files of HashAttention weights, and what they refuse."""

from __future__ import annotations

import os
import pathlib
import pickle

import pytest
import torch

from sparse_attention_hub.sparse_attention.utils.hashattention_utils import (
    convert_usa_weights_to_hash_attention,
    create_hat_weights_file_from_usa,
    load_hat_weights,
)

LAYERS, HEADS, DIM, HIDDEN, BITS = 2, 3, 8, 6, 5
SIZES = ((DIM, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, BITS))
SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "models" / "retrieval-6m" / "hash_attention.safetensors"


def state_dict():
    generator = torch.Generator().manual_seed(1)
    return {
        f"{layer}.learning_to_hash_transformation_{side}.{head}.{2 * i}.{part}": torch.randn(shape, generator=generator)
        for layer in range(LAYERS)
        for side in "qk"
        for head in range(HEADS)
        for i, (width, out) in enumerate(SIZES)
        for part, shape in (("weight", (out, width)), ("bias", (out,)))
    }


def saved(tmp_path, state):
    path = tmp_path / "usa.pt"
    torch.save(state, path)
    return path


def assert_equal(actual, expected, **tolerance):
    assert list(actual) == list(expected)
    for layer, entry in expected.items():
        assert set(actual[layer]) == {"query_matrix", "query_bias", "key_matrix", "key_bias"}
        for name, tensors in entry.items():
            assert len(actual[layer][name]) == len(tensors)
            for a, e in zip(actual[layer][name], tensors):
                torch.testing.assert_close(a, e, **tolerance)


def test_conversion(tmp_path):
    state = state_dict()
    weights = convert_usa_weights_to_hash_attention(saved(tmp_path, state), LAYERS, HEADS, 3)
    assert sorted(weights) == [0, 1]
    for i, (width, out) in enumerate(SIZES):
        assert weights[1]["key_matrix"][i].shape == (HEADS, width, out)
        for head in range(HEADS):
            name = f"1.learning_to_hash_transformation_k.{head}.{2 * i}"
            assert torch.equal(weights[1]["key_matrix"][i][head], state[name + ".weight"].t())
            assert torch.equal(weights[1]["key_bias"][i][head], state[name + ".bias"])


def test_missing_biases_are_zero_and_missing_maps_left_out(tmp_path):
    state = {n: t for n, t in state_dict().items() if not n.endswith("2.bias") and ".2.weight" not in n}
    weights = convert_usa_weights_to_hash_attention(saved(tmp_path, state), LAYERS, HEADS, 5)
    assert [t.shape for t in weights[0]["query_matrix"]] == [(HEADS, DIM, HIDDEN), (HEADS, HIDDEN, BITS)]
    state = {n: t for n, t in state_dict().items() if ".0.bias" not in n}
    weights = convert_usa_weights_to_hash_attention(saved(tmp_path, state), LAYERS, HEADS, 3)
    assert torch.equal(weights[0]["query_bias"][0], torch.zeros(HEADS, HIDDEN))
    assert bool((weights[0]["query_bias"][1] != 0).any())


def test_a_map_of_some_heads_only(tmp_path):
    state = state_dict()
    del state["0.learning_to_hash_transformation_q.2.0.weight"]
    with pytest.raises(ValueError, match="not for all 3 heads"):
        convert_usa_weights_to_hash_attention(saved(tmp_path, state), LAYERS, HEADS, 3)


@pytest.mark.parametrize("name", ["hat.pkl", "hat.safetensors"])
def test_file_and_back(tmp_path, name):
    usa, target = saved(tmp_path, state_dict()), tmp_path / name
    create_hat_weights_file_from_usa(usa, target, LAYERS, HEADS, 3)
    expected = convert_usa_weights_to_hash_attention(usa, LAYERS, HEADS, 3)
    half = dict(rtol=1e-3, atol=1e-6) if name.endswith("safetensors") else dict(rtol=0, atol=0)
    assert_equal(load_hat_weights(str(target)), expected, **half)


def test_pickles_of_the_hub(tmp_path):
    weights = {
        3: {
            "query_matrix": [torch.nn.Parameter(torch.randn(2, 4, 3))],
            "query_bias": [torch.randn(2, 3, dtype=torch.bfloat16)],
            "key_matrix": [torch.randn(2, 3, 4).transpose(1, 2)],
            "key_bias": [torch.randn(2, 3)],
        }
    }
    path = tmp_path / "hat.pkl"
    path.write_bytes(pickle.dumps(weights))
    assert_equal(load_hat_weights(path), {3: {n: [t.detach() for t in ts] for n, ts in weights[3].items()}})


def test_shipped_file():
    weights = load_hat_weights(SHIPPED)
    assert sorted(weights) == list(range(6))
    assert [t.shape for t in weights[0]["query_matrix"]] == [(8, 64, 64), (8, 64, 32)]
    assert [t.shape for t in weights[0]["key_bias"]] == [(2, 64), (2, 32)]
    assert weights[0]["key_bias"][0].dtype == torch.float32


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_pickle_that_runs_a_program_is_refused(tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "hat.pkl"
    path.write_bytes(pickle.dumps({0: Bomb(str(target))}))
    with pytest.raises(ValueError, match="refused: the pickle names .*mkdir"):
        load_hat_weights(path)
    torch.save({"x": Bomb(str(target))}, tmp_path / "usa.pt")
    with pytest.raises(ValueError, match="not a state dict of tensors"):
        convert_usa_weights_to_hash_attention(tmp_path / "usa.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a pickle of tensors"),
        (b"garbage", "not a pickle of tensors"),
        (pickle.dumps([1]), "must hold a dictionary of layers, got list"),
        (pickle.dumps({0: [1]}), "layer 0 must be a dictionary, got list"),
        (pickle.dumps({0: {"query_matrix": [1]}}), "layer 0: query_matrix must be a list of tensors"),
    ],
)
def test_other_pickles(tmp_path, data, message):
    path = tmp_path / "hat.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_hat_weights(path)


def test_other_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "hat.safetensors"
    save_file({"layers.0.other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="layers.0.other is no part of HashAttention weights"):
        load_hat_weights(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_hat_weights(path)


@pytest.mark.parametrize("name", ["none.pkl", "none.safetensors"])
def test_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        load_hat_weights(tmp_path / name)
