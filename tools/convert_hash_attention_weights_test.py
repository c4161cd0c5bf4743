"""Tests of convert_hash_attention_weights.py: both sources, and files that lie or attack."""
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
import convert_hash_attention_weights as convert  # noqa: E402

LAYERS, HEADS, DIM, HIDDEN, BITS = 2, 4, 3, 5, 8


def hub_weights(heads=HEADS, key_groups=HEADS):
    generator = torch.Generator().manual_seed(5)

    def side(groups):
        sizes = ((DIM, HIDDEN), (HIDDEN, BITS))
        repeat = heads // groups
        return ([torch.randn(groups, *size, generator=generator).repeat_interleave(repeat, 0)
                 for size in sizes],
                [torch.randn(groups, size[1], generator=generator).repeat_interleave(repeat, 0)
                 for size in sizes])

    weights = {}
    for layer in range(LAYERS):
        query, key = side(heads), side(key_groups)
        weights[layer] = {"query_matrix": query[0], "query_bias": query[1],
                          "key_matrix": key[0], "key_bias": key[1]}
    return weights


def run(tmp_path, capsys, source, data, *options):
    """(exit code, what was printed, tensors or None, metadata or None)"""
    path, out = tmp_path / "weights", tmp_path / "out.safetensors"
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif source == "hub":
        path.write_bytes(pickle.dumps(data))
    else:
        torch.save(data, path)
    code = convert.main([source, str(path), str(out), *options])
    captured = capsys.readouterr()
    if code:
        assert not out.exists()
        return code, captured.err, None, None
    with safe_open(out, "pt") as file:
        return code, captured.out, {n: file.get_tensor(n) for n in file.keys()}, file.metadata()


def test_hub_weights_keep_every_value(tmp_path, capsys):
    weights = hub_weights()
    strided = weights[1]["key_matrix"][0].transpose(1, 2).contiguous().transpose(1, 2)
    weights[1]["key_matrix"][0] = strided
    code, _, tensors, metadata = run(tmp_path, capsys, "hub", weights, "--activation", "gelu")
    assert code == 0
    assert metadata == {"format": "sah.hash_attention.v1", "activation": "gelu"}
    assert len(tensors) == LAYERS * 2 * 2 * 2
    for layer, entry in weights.items():
        for side in ("query", "key"):
            for i in range(2):
                name = f"layers.{layer}.{side}.{i}"
                assert torch.equal(tensors[name + ".weight"], entry[f"{side}_matrix"][i].half())
                assert torch.equal(tensors[name + ".bias"], entry[f"{side}_bias"][i].half())


def test_hub_parameters_and_bfloat16_are_read(tmp_path, capsys):
    weights = hub_weights()
    expected = weights[0]["query_matrix"][0].bfloat16()
    weights[0]["query_matrix"][0] = torch.nn.Parameter(expected)
    code, _, tensors, _ = run(tmp_path, capsys, "hub", weights)
    assert code == 0
    assert torch.equal(tensors["layers.0.query.0.weight"], expected.half())


def test_usa_state_dict_is_transposed_and_missing_biases_are_zero(tmp_path, capsys):
    generator = torch.Generator().manual_seed(6)
    state = {"unrelated.weight": torch.ones(2)}
    for side in "qk":
        for head in range(HEADS):
            prefix = f"0.learning_to_hash_transformation_{side}.{head}"
            state[f"{prefix}.0.weight"] = torch.randn(HIDDEN, DIM, generator=generator)
            state[f"{prefix}.0.bias"] = torch.randn(HIDDEN, generator=generator)
            state[f"{prefix}.2.weight"] = torch.randn(BITS, HIDDEN, generator=generator)
    code, out, tensors, metadata = run(tmp_path, capsys, "usa", state)
    assert code == 0
    assert metadata["activation"] == "silu"
    assert "1 layers, 4 query heads, 4 key heads, 8 bits" in out
    for side, letter in (("query", "q"), ("key", "k")):
        for head in range(HEADS):
            prefix = f"0.learning_to_hash_transformation_{letter}.{head}"
            assert torch.equal(tensors[f"layers.0.{side}.0.weight"][head],
                               state[f"{prefix}.0.weight"].t().half())
            assert torch.equal(tensors[f"layers.0.{side}.0.bias"][head],
                               state[f"{prefix}.0.bias"].half())
            assert torch.equal(tensors[f"layers.0.{side}.1.weight"][head],
                               state[f"{prefix}.2.weight"].t().half())
            assert not tensors[f"layers.0.{side}.1.bias"].any()


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attack(marker):
    return pickle.dumps(Call(os.mkdir, str(marker)))


@pytest.mark.parametrize("hide", ["bare", "in the weights", "in a storage", "in a state dict"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, capsys, hide):
    marker = tmp_path / "ran"
    pickle.loads(attack(marker))
    assert marker.exists(), "the attack must work on a plain unpickler"
    marker.rmdir()
    data = attack(marker)
    if hide == "in the weights":
        weights = hub_weights()
        weights[0]["key_bias"][1] = Call(os.mkdir, str(marker))
        data = pickle.dumps(weights)
    elif hide == "in a storage":
        weights = hub_weights()
        weights[0]["key_bias"][1] = Call(torch.storage._load_from_bytes, data)
        with pytest.raises(Exception):
            pickle.loads(pickle.dumps(weights))
        assert marker.exists(), "the attack must work on a plain unpickler"
        marker.rmdir()
        data = pickle.dumps(weights)
    source = "usa" if hide == "in a state dict" else "hub"
    code, error, _, _ = run(tmp_path, capsys, source, data)
    assert code == 1
    assert not marker.exists()
    if hide in ("bare", "in the weights"):
        assert "refused: the pickle names posix.mkdir" in error


def rebuilt(size, stride, offset):
    """A pickle of a tensor whose size, stride and offset claim what its storage does not hold."""
    storage = torch.zeros(6).storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


@pytest.mark.parametrize("size,stride,offset", [((7,), (1,), 0), ((2,), (1,), 5), ((2,), (-1,), 3),
                                                ((2, 2), (5, 1), 0), ((1,), (1,), -1)])
def test_a_tensor_cannot_leave_its_storage(tmp_path, capsys, size, stride, offset):
    weights = hub_weights()
    weights[0]["key_bias"][1] = rebuilt(size, stride, offset)
    code, error, _, _ = run(tmp_path, capsys, "hub", weights)
    assert code == 1
    assert "leaves its storage of 6 values" in error


def drop(weights):
    del weights[0]


def drop_list(weights):
    del weights[1]["key_bias"]


def shorten_list(weights):
    weights[1]["key_bias"].pop()


def swap_axes(weights):
    weights[0]["query_matrix"][1] = weights[0]["query_matrix"][1].transpose(1, 2)


def narrow(weights):
    weights[1]["key_matrix"][1] = weights[1]["key_matrix"][1][:, 1:]


def fewer_bits(weights):
    for part in ("key_matrix", "key_bias"):
        weights[1][part][1] = weights[1][part][1][..., 1:]


def fewer_heads(weights):
    for part in weights[1]:
        weights[1][part] = [tensor[:2] for tensor in weights[1][part]]


def three_key_heads(weights):
    for entry in weights.values():
        for part in ("key_matrix", "key_bias"):
            entry[part] = [tensor[:3] for tensor in entry[part]]


def overflow(weights):
    weights[1]["query_bias"][0][2, 1] = 7e4


def number(weights):
    weights[0]["query_bias"][0] = 3.0


@pytest.mark.parametrize("damage,message", [
    (drop, "layers must be numbered from 0 without gaps, got [1]"),
    (drop_list, "layer 1: key_bias must be a list of tensors, got NoneType"),
    (shorten_list, "layer 1: key_bias must have as many tensors as key_matrix, 2, got 1"),
    (swap_axes, "layer 0: query[1]: weight must be (heads, in, out) and bias (heads, out), got "
                "(4, 8, 5) and (4, 8)"),
    (narrow, "layer 1: key[1] must take the 5 outputs before it, got 4 inputs"),
    (fewer_bits, "layer 1: query and key must agree in inputs and bits, got (3, 8) and (3, 7)"),
    (fewer_heads, "layer 1: query[0] must have 4 heads as the first layer, got 2"),
    (three_key_heads, "query heads must be a multiple of key heads, got 4 and 3"),
    (overflow, "layers.1.query.0.bias must be finite in float16, got 70000"),
    (number, "layer 0: query_bias[0] must be a tensor, got float"),
])
def test_errors_name_the_place(tmp_path, capsys, damage, message):
    weights = hub_weights()
    damage(weights)
    code, error, _, _ = run(tmp_path, capsys, "hub", weights)
    assert code == 1
    assert f"weights: {message}" in error


def usa_state():
    """Two layers of two heads and two linear layers, all of one shape."""
    name_of = "{}.learning_to_hash_transformation_{}.{}.{}.{}".format
    return {name_of(layer, side, head, place, part): torch.ones(shape)
            for layer in range(2) for side in "qk" for head in range(2) for place in (0, 2)
            for part, shape in (("weight", (DIM, DIM)), ("bias", (DIM,)))}


@pytest.mark.parametrize("name,message", [
    ("0.learning_to_hash_transformation_q.1.0.weight",
     "layer 0: query head 1 linear 0: weight must be a matrix, got none"),
    ("0.learning_to_hash_transformation_k.0", "layer 0: key heads must be numbered from 0"),
    ("0.learning_to_hash_transformation_k.1.0", "layer 0: key head 1 linear 0: weight must be"),
    ("0.", "layers must be numbered from 0 without gaps, got [1]"),
])
def test_usa_errors_name_what_is_missing(tmp_path, capsys, name, message):
    state = usa_state()
    removed = {key: value for key, value in state.items() if not key.startswith(name)}
    assert len(removed) < len(state)
    code, error, _, _ = run(tmp_path, capsys, "usa", removed)
    assert code == 1
    assert message in error


def test_a_usa_linear_layer_cannot_be_left_out_of_all_heads(tmp_path, capsys):
    dropped = re.compile(r"1\.learning_to_hash_transformation_k\.\d\.0\..*")
    state = {key: value for key, value in usa_state().items() if not dropped.fullmatch(key)}
    assert len(state) == len(usa_state()) - 4
    code, error, _, _ = run(tmp_path, capsys, "usa", state)
    assert code == 1
    assert "layer 1: key linear layers must stand at 0, 2, 4, ..., got [2]" in error


def test_usa_values_must_be_tensors(tmp_path, capsys):
    name = "0.learning_to_hash_transformation_q.0.0.weight"
    code, error, _, _ = run(tmp_path, capsys, "usa", {name: 3})
    assert code == 1
    assert f"{name} must be a tensor, got int" in error


def test_a_wrong_number_of_layers_is_an_error(tmp_path, capsys):
    code, error, _, _ = run(tmp_path, capsys, "hub", hub_weights(), "--layers", "3")
    assert code == 1
    assert "must have 3 layers, got 2" in error


def test_equal_keys_of_a_group_are_stored_once(tmp_path, capsys):
    weights = hub_weights(key_groups=2)
    code, out, tensors, _ = run(tmp_path, capsys, "hub", weights, "--kv-heads", "2")
    assert code == 0
    assert "4 query heads, 2 key heads" in out
    assert torch.equal(tensors["layers.1.key.0.weight"], weights[1]["key_matrix"][0][[0, 2]].half())
    assert torch.equal(tensors["layers.1.key.1.bias"], weights[1]["key_bias"][1][[0, 2]].half())


@pytest.mark.parametrize("groups,message", [
    ("2", "layer 1: key[1] of head 3 differs from head 2 of its group: the keys cannot be shared"),
    ("3", "--kv-heads must divide the 4 key heads, got 3"),
])
def test_keys_that_differ_are_not_shared(tmp_path, capsys, groups, message):
    weights = hub_weights(key_groups=2)
    weights[1]["key_bias"][1][3, 0] += 1
    code, error, _, _ = run(tmp_path, capsys, "hub", weights, "--kv-heads", groups)
    assert code == 1
    assert message in error


@pytest.mark.parametrize("source", ["hub", "usa"])
@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({})])
def test_other_files_are_errors(tmp_path, capsys, source, data):
    code, error, _, _ = run(tmp_path, capsys, source, data)
    assert code == 1
    assert error.startswith(str(tmp_path / "weights"))


def test_a_missing_file_is_an_error(tmp_path, capsys):
    assert convert.main(["hub", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "No such file" in capsys.readouterr().err
