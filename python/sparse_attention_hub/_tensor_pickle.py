"""Tensors out of other people's pickles, without running what a pickle says.

A pickle can name any function and call it. The readers here know tensors, dictionaries, lists and plain values, and
refuse every other name.

tools/convert_hash_attention_weights.py reads this file by its path, so it imports nothing of the package.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
from typing import Any, Sequence, Union

import torch

Path = Union[str, "os.PathLike[str]"]


class WeightsError(ValueError):
    """What is wrong with a file of weights, with the path to the wrong thing in it."""


def _storage(data: bytes) -> Any:
    # torch.storage._load_from_bytes, which is what a pickled tensor names, would unpickle anything.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> torch.Tensor:
    if isinstance(storage, torch.storage.TypedStorage):
        flat = torch.empty(0, dtype=storage.dtype).set_(storage)
    elif isinstance(storage, torch.Tensor):
        flat = storage.reshape(-1)
    else:
        raise WeightsError(f"a tensor's storage must be a typed one, got {type(storage).__name__}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= flat.numel()):
        raise WeightsError(
            f"a tensor of size {tuple(size)} at {offset} leaves its storage of {flat.numel()} values"
        )
    return flat.as_strided(size, stride, offset).clone()


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


class _TensorUnpickler(pickle.Unpickler):
    _KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): _storage,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise WeightsError(
                f"refused: the pickle names {module}.{name}, which is no part of a dictionary of tensors"
            ) from None


def load_pickle(path: Path) -> Any:
    """The object in a pickle file, tensors on the host.

    Raises:
        WeightsError: The file is damaged or names anything else than tensors, dictionaries and lists.
        OSError: It cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            return _TensorUnpickler(file).load()
        except WeightsError:
            raise
        except Exception as error:  # what a damaged pickle raises can be anything
            raise WeightsError(f"not a pickle of tensors: {error}") from None


def load_state_dict(path: Path) -> dict[Any, Any]:
    """The dictionary in a file of `torch.save`, tensors on the host.

    Raises:
        WeightsError: The file holds anything else.
        OSError: It cannot be opened.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # RuntimeError, UnpicklingError and more, by what is wrong
        raise WeightsError(f"not a state dict of tensors: {error}") from None
    if not isinstance(state, dict):
        raise WeightsError(f"the file must hold a state dict, got {type(state).__name__}")
    return state
