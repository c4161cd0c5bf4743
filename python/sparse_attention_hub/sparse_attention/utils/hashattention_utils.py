"""Files of HashAttention weights.

In Python the weights are {layer: {"query_matrix": [...], "query_bias": [...], "key_matrix": [...], "key_bias": [...]}}. A
list has a tensor for each linear map x W + b of an MLP: W (heads, in, out), b (heads, out). Two kinds of files hold
this: pickles, as the Python hub writes them, and safetensors (docs/index_weights.md), which is smaller (float16),
cannot hold programs, and is what C++ pipelines read. The name decides: `.safetensors` is the latter. Reading and
writing safetensors needs the package `safetensors`.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import re
from typing import Any, Dict, List, Union

import torch
from torch import Tensor

from ..._tensor_pickle import WeightsError, load_pickle, load_state_dict

Path = Union[str, "os.PathLike[str]"]
HatWeights = Dict[int, Dict[str, List[Tensor]]]

_FORMAT = "sah.hash_attention.v1"
_SIDES = ("query", "key")
_TENSOR_NAME = re.compile(r"layers\.(\d+)\.(query|key)\.(\d+)\.(weight|bias)")


def convert_usa_weights_to_hash_attention(
    usa_checkpoint_path: Path,
    num_layers: int = 32,
    num_heads: int = 32,
    num_mlp_layers: int = 3,
    device: Union[str, torch.device] = "cpu",
) -> HatWeights:
    """Weights of the original code's state dict.

    Args:
        usa_checkpoint_path: A file of `torch.save` with tensors
            `{layer}.learning_to_hash_transformation_{q|k}.{head}.{2 * linear}.weight`, (out, in), and `.bias`, (out). A
            bias that is missing is 0; a linear map that is missing is left out.
        num_layers: Layers to read.
        num_heads: Heads to read.
        num_mlp_layers: Linear maps to read.
        device: Where the tensors go.

    Raises:
        WeightsError: A `ValueError`: the file is no such dictionary, or a linear map is there for some heads only.
        OSError: The file cannot be opened.
    """
    state = load_state_dict(usa_checkpoint_path)
    weights: HatWeights = {}
    for layer in range(num_layers):
        entry: Dict[str, List[Tensor]] = {f"{side}_{kind}": [] for side in _SIDES for kind in ("matrix", "bias")}
        for side in _SIDES:
            prefix = f"{layer}.learning_to_hash_transformation_{side[0]}"
            for linear in range(num_mlp_layers):
                names = [f"{prefix}.{head}.{2 * linear}" for head in range(num_heads)]
                there = [name for name in names if name + ".weight" in state]
                if not there:
                    continue
                if len(there) < num_heads:
                    raise WeightsError(
                        f"{usa_checkpoint_path}: {there[0]}.weight is there, but not for all {num_heads} heads"
                    )
                matrices = [state[name + ".weight"].detach().t().to(device) for name in names]
                biases = [
                    state[name + ".bias"].detach().to(device)
                    if name + ".bias" in state
                    else matrix.new_zeros(matrix.shape[1])
                    for name, matrix in zip(names, matrices)
                ]
                entry[f"{side}_matrix"].append(torch.stack(matrices))
                entry[f"{side}_bias"].append(torch.stack(biases))
        weights[layer] = entry
    return weights


def create_hat_weights_file_from_usa(
    usa_checkpoint_path: Path,
    target_hat_path: Path,
    num_layers: int = 32,
    num_heads: int = 32,
    num_mlp_layers: int = 3,
    device: Union[str, torch.device] = "cpu",
) -> None:
    """Writes what `convert_usa_weights_to_hash_attention` returns.

    A target that ends in `.safetensors` is written in that format, as for silu between the linear maps;
    tools/convert_hash_attention_weights.py has further choices. Any other target becomes a pickle.
    """
    weights = convert_usa_weights_to_hash_attention(
        usa_checkpoint_path, num_layers, num_heads, num_mlp_layers, device
    )
    if is_safetensors(target_hat_path):
        save_hat_weights(weights, target_hat_path, torch.float16)
        return
    with open(target_hat_path, "wb") as file:
        pickle.dump(weights, file)


def save_hat_weights(weights: HatWeights, path: Path, dtype: torch.dtype) -> None:
    """Writes weights as a safetensors file in `dtype`, as for silu between the linear maps.

    Raises:
        WeightsError: A `ValueError`: `weights` is no dictionary of layers of lists of tensors, or has none.
    """
    if not isinstance(weights, dict) or not weights:
        raise WeightsError(f"hat_weights must be a dictionary of layers or the path of a file, got {weights!r:.80}")
    tensors: Dict[str, Tensor] = {}
    for layer, given in weights.items():
        entry = _moved(f"hat_weights: layer {layer}", given, "cpu")
        for side in _SIDES:
            for kind, part in (("matrix", "weight"), ("bias", "bias")):
                for i, tensor in enumerate(entry.get(f"{side}_{kind}", [])):
                    tensors[f"layers.{layer}.{side}.{i}.{part}"] = tensor.detach().to(dtype).contiguous()
    _safetensors().save_file(tensors, os.fspath(path), metadata={"format": _FORMAT, "activation": "silu"})


def load_hat_weights(hat_weights_path: Path, device: Union[str, torch.device] = "cpu") -> HatWeights:
    """Reads a pickle of the Python hub or a safetensors file, whose tensors become float32.

    Raises:
        WeightsError: A `ValueError`: the file holds something else, or a pickle names anything but tensors,
            dictionaries and lists.
        OSError: The file cannot be opened.
    """
    if is_safetensors(hat_weights_path):
        return _of_tensors(hat_weights_path, device)
    data = load_pickle(hat_weights_path)
    if not isinstance(data, dict):
        raise WeightsError(f"{hat_weights_path}: must hold a dictionary of layers, got {type(data).__name__}")
    return {layer: _moved(f"{hat_weights_path}: layer {layer}", entry, device) for layer, entry in data.items()}


def _moved(where: str, entry: Any, device: Union[str, torch.device]) -> Dict[str, List[Tensor]]:
    if not isinstance(entry, dict):
        raise WeightsError(f"{where} must be a dictionary, got {type(entry).__name__}")
    moved: Dict[str, List[Tensor]] = {}
    for name, tensors in entry.items():
        if not isinstance(tensors, (list, tuple)) or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise WeightsError(f"{where}: {name} must be a list of tensors")
        moved[name] = [tensor.to(device) for tensor in tensors]
    return moved


def _of_tensors(path: Path, device: Union[str, torch.device]) -> HatWeights:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"HashAttention weights not found: {os.fspath(path)}")
    try:
        tensors = _safetensors().load_file(os.fspath(path))
    except Exception as error:  # safetensors has a type of its own, which is not imported here
        if isinstance(error, (ImportError, OSError)):
            raise
        raise WeightsError(f"{path}: not a safetensors file: {error}") from None
    found: Dict[int, Dict[str, Dict[int, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise WeightsError(f"{path}: {name} is no part of HashAttention weights")
        layer, side, linear, part = match.groups()
        kind = "matrix" if part == "weight" else "bias"
        lists = found.setdefault(int(layer), {f"{s}_{k}": {} for s in _SIDES for k in ("matrix", "bias")})
        lists[f"{side}_{kind}"][int(linear)] = tensor.to(device, torch.float32)
    return {
        layer: {name: [linears[i] for i in sorted(linears)] for name, linears in found[layer].items()}
        for layer in sorted(found)
    }


def is_safetensors(path: Path) -> bool:
    """Whether a file of weights is read as safetensors, by its name."""
    return os.fspath(path).endswith(".safetensors")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "HashAttention weights in safetensors files need the package safetensors: pip install safetensors"
        ) from error
    return safetensors.torch
