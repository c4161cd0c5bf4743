#!/usr/bin/env python3
"""Converts HashAttention weights of other projects to the file that this project reads.

  convert_hash_attention_weights.py hub WEIGHTS.pkl OUT.safetensors
  convert_hash_attention_weights.py usa STATE_DICT.pt OUT.safetensors

`hub` is the Python hub's pickled dictionary {layer: {"query_matrix": [(heads, in, out), ...],
"query_bias": [(heads, out), ...], "key_matrix": ..., "key_bias": ...}}; `usa` the state dict of
the original code, "{layer}.learning_to_hash_transformation_{q|k}.{head}.{2 * linear}.weight" (out,
in) and, where there is one, ".bias". OUT has layers.{l}.{query|key}.{i}.{weight|bias} in float16,
weights (heads, in, out), and metadata that names the format and the activation.

A pickle can run any program, so `hub` files go through an unpickler that knows tensors,
dictionaries and lists and refuses every other name.
"""

import argparse
import importlib.util
import pathlib
import re
import sys

import torch
from safetensors.torch import save_file

FORMAT = "sah.hash_attention.v1"
ACTIVATIONS = ("relu", "silu", "gelu", "tanh")
USA_NAME = re.compile(r"(\d+)\.learning_to_hash_transformation_([qk])\.(\d+)\.(\d+)\.(weight|bias)")
SIDES = {"q": "query", "k": "key"}


def _tensor_pickle():
    """The package's reader of pickles; the package itself needs its compiled module."""
    path = (pathlib.Path(__file__).resolve().parent.parent / "python" / "sparse_attention_hub" /
            "_tensor_pickle.py")
    spec = importlib.util.spec_from_file_location("_tensor_pickle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tensor_pickle = _tensor_pickle()
WeightsError = tensor_pickle.WeightsError


def read_hub(path):
    """{layer: {side: [(weight, bias), ...]}} of the Python hub's pickle."""
    data = tensor_pickle.load_pickle(path)
    if not isinstance(data, dict) or not data:
        raise WeightsError("the pickle must hold a dictionary of layers, got "
                           f"{type(data).__name__ if data else 'an empty one'}")
    return {layer: _hub_layer(f"layer {layer}", entry) for layer, entry in data.items()}


def _hub_layer(where, entry):
    if not isinstance(entry, dict):
        raise WeightsError(f"{where}: must be a dictionary, got {type(entry).__name__}")
    sides = {}
    for side in SIDES.values():
        lists = []
        for name in (f"{side}_matrix", f"{side}_bias"):
            tensors = entry.get(name)
            if not isinstance(tensors, (list, tuple)) or not tensors:
                raise WeightsError(f"{where}: {name} must be a list of tensors, got "
                                   f"{type(tensors).__name__}")
            for i, tensor in enumerate(tensors):
                if not isinstance(tensor, torch.Tensor):
                    raise WeightsError(f"{where}: {name}[{i}] must be a tensor, got "
                                       f"{type(tensor).__name__}")
            lists.append(tensors)
        if len(lists[0]) != len(lists[1]):
            raise WeightsError(f"{where}: {side}_bias must have as many tensors as {side}_matrix, "
                               f"{len(lists[0])}, got {len(lists[1])}")
        sides[side] = list(zip(*lists))
    return sides


def read_usa(path):
    """{layer: {side: [(weight, bias), ...]}} of the original code's state dict."""
    found = {}
    for name, tensor in tensor_pickle.load_state_dict(path).items():
        match = USA_NAME.fullmatch(str(name))
        if match:
            if not isinstance(tensor, torch.Tensor):
                raise WeightsError(f"{name} must be a tensor, got {type(tensor).__name__}")
            layer, side, head, place, part = match.groups()
            found[int(layer), SIDES[side], int(head), int(place), part] = tensor
    if not found:
        raise WeightsError("the state dict has no learning_to_hash_transformation_q or _k")
    result = {}
    for layer in sorted({key[0] for key in found}):
        result[layer] = {side: _usa_side(found, layer, side) for side in SIDES.values()}
    return result


def _usa_side(found, layer, side):
    heads = sorted({key[2] for key in found if key[:2] == (layer, side)})
    places = sorted({key[3] for key in found if key[:2] == (layer, side)})
    where = f"layer {layer}: {side}"
    _expect_numbers(f"{where} heads", heads)
    if places != list(range(0, 2 * len(places), 2)):
        raise WeightsError(f"{where} linear layers must stand at 0, 2, 4, ..., got {places}")
    linears = []
    for place in places:
        weights, biases = [], []
        for head in heads:
            weight = found.get((layer, side, head, place, "weight"))
            if weight is None or weight.dim() != 2:
                raise WeightsError(f"{where} head {head} linear {place}: weight must be a matrix, "
                                   f"got {'none' if weight is None else tuple(weight.shape)}")
            bias = found.get((layer, side, head, place, "bias"))
            weights.append(weight.t().float())
            biases.append(torch.zeros(weight.shape[0]) if bias is None else bias.float())
        for part, tensors in (("weight", weights), ("bias", biases)):
            for head, tensor in enumerate(tensors):
                if tensor.shape != tensors[0].shape:
                    raise WeightsError(f"{where} head {head} linear {place}: {part} must have the "
                                       f"shape of head 0, {tuple(tensors[0].shape)}, got "
                                       f"{tuple(tensor.shape)}")
        linears.append((torch.stack(weights), torch.stack(biases)))
    return linears


def _expect_numbers(what, numbers):
    """`numbers` must be 0, 1, 2, ... in any order."""
    missing = [n for n in range(len(numbers)) if n not in numbers]
    if missing or not numbers:
        raise WeightsError(f"{what} must be numbered from 0 without gaps, got {list(numbers)}")


def check_shapes(layers):
    """Raises WeightsError unless all layers have equal heads and linear layers that fit."""
    _expect_numbers("layers", list(layers))
    first_heads = {}
    for layer in sorted(layers):
        widths = {}
        for side, linears in layers[layer].items():
            where = f"layer {layer}: {side}"
            if not linears:
                raise WeightsError(f"{where} has no linear layers")
            for i, (weight, bias) in enumerate(linears):
                if weight.dim() != 3 or bias.shape != (weight.shape[0], weight.shape[2]):
                    raise WeightsError(
                        f"{where}[{i}]: weight must be (heads, in, out) and bias (heads, out), got "
                        f"{tuple(weight.shape)} and {tuple(bias.shape)}")
                heads = first_heads.setdefault(side, weight.shape[0])
                if weight.shape[0] != heads:
                    raise WeightsError(f"{where}[{i}] must have {heads} heads as the first layer, "
                                       f"got {weight.shape[0]}")
                if i and weight.shape[1] != linears[i - 1][0].shape[2]:
                    raise WeightsError(f"{where}[{i}] must take the {linears[i - 1][0].shape[2]} "
                                       f"outputs before it, got {weight.shape[1]} inputs")
            widths[side] = linears[0][0].shape[1], linears[-1][0].shape[2]
        if widths["query"] != widths["key"]:
            raise WeightsError(f"layer {layer}: query and key must agree in inputs and bits, got "
                               f"{widths['query']} and {widths['key']}")
    if first_heads["query"] % first_heads["key"]:
        raise WeightsError("query heads must be a multiple of key heads, got "
                           f"{first_heads['query']} and {first_heads['key']}")


def share_keys(layers, kv_heads):
    """Keeps one of each group's key MLPs; all heads of a group must have the same one."""
    for layer in sorted(layers):
        shared = []
        for i, (weight, bias) in enumerate(layers[layer]["key"]):
            heads = weight.shape[0]
            if heads % kv_heads:
                raise WeightsError(f"--kv-heads must divide the {heads} key heads, got {kv_heads}")
            group = heads // kv_heads
            for head in range(heads):
                leader = head - head % group
                if not (torch.equal(weight[head], weight[leader]) and
                        torch.equal(bias[head], bias[leader])):
                    raise WeightsError(f"layer {layer}: key[{i}] of head {head} differs from head "
                                       f"{leader} of its group: the keys cannot be shared")
            shared.append((weight[::group], bias[::group]))
        layers[layer]["key"] = shared


def write(layers, path, activation):
    tensors = {}
    for layer in layers:
        for side, linears in layers[layer].items():
            for i, pair in enumerate(linears):
                for part, tensor in zip(("weight", "bias"), pair):
                    name = f"layers.{layer}.{side}.{i}.{part}"
                    half = tensor.detach().to(torch.float16).contiguous()
                    if not torch.isfinite(half).all():
                        raise WeightsError(f"{name} must be finite in float16, got "
                                           f"{float(tensor.abs().max()):g}")
                    tensors[name] = half
    save_file(tensors, path, metadata={"format": FORMAT, "activation": activation})
    pathlib.Path(path).chmod(0o644)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", choices=("hub", "usa"))
    parser.add_argument("weights")
    parser.add_argument("out")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="silu",
                        help="between the linear layers; neither source file says it")
    parser.add_argument("--layers", type=int, help="how many layers the file must have")
    parser.add_argument("--kv-heads", type=int, help="store one key MLP for each of these groups")
    args = parser.parse_args(arguments)
    if args.kv_heads is not None and args.kv_heads < 1:
        parser.error(f"--kv-heads must be > 0, got {args.kv_heads}")
    try:
        layers = {"hub": read_hub, "usa": read_usa}[args.source](args.weights)
        if args.layers not in (None, len(layers)):
            raise WeightsError(f"must have {args.layers} layers, got {len(layers)}")
        check_shapes(layers)
        if args.kv_heads:
            share_keys(layers, args.kv_heads)
        write(layers, args.out, args.activation)
    except (WeightsError, OSError) as error:
        print(f"{args.weights}: {error}", file=sys.stderr)
        return 1
    first = layers[0]
    print(f"{args.out}: {len(layers)} layers, {first['query'][0][0].shape[0]} query heads, "
          f"{first['key'][0][0].shape[0]} key heads, {first['query'][-1][0].shape[2]} bits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
