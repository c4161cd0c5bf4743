"""What differs between the versions of `transformers` that this package supports (4.57 to 5.23)."""

from __future__ import annotations

import copy
import inspect
import sys
from dataclasses import dataclass
from typing import Any, Mapping

import torch
from torch import nn


@dataclass(frozen=True)
class QueryRange:
    """Where the queries of a mask lie: positions [offset, offset + length) of the sequence."""

    length: int
    offset: int | torch.Tensor
    #: Bool on the device, or None: the positions follow one another without gaps.
    is_contiguous: torch.Tensor | None
    device: torch.device


def query_range(arguments: Mapping[str, Any]) -> QueryRange:
    """The queries of a call of a mask function.

    Up to 5.2 it gets `cache_position`, the position of every query; later `q_length`, `q_offset` and `device`.
    """
    positions = arguments.get("cache_position")
    if positions is None:
        device = torch.device(arguments.get("device", "cpu"))
        return QueryRange(arguments["q_length"], arguments.get("q_offset", 0), None, device)
    length = positions.shape[0]
    contiguous = None if length == 1 else positions[-1] - positions[0] == length - 1
    return QueryRange(length, positions[0], contiguous, positions.device)


def last_logits_only(model: nn.Module) -> dict[str, int]:
    """The argument of `model.forward` that asks for the logits of the last token alone; none if it has no such."""
    parameters = inspect.signature(model.forward).parameters
    for name in ("logits_to_keep", "num_logits_to_keep"):
        if name in parameters:
            return {name: 1}
    return {}


def new_cache(model: nn.Module, keeps_states: bool, batch: int = 1) -> Any:
    """An empty cache for `batch` rows.

    Without states of recurrent layers every layer keeps all keys, those of sliding windows too, so that the cache can
    be cut back. With them it is the model's own kind of cache.
    """
    from transformers import DynamicCache

    if not keeps_states:
        return DynamicCache()
    # Some hybrid models of the 4.57 series bring a cache of their own, which their forward does not make.
    module = sys.modules[type(model).__module__]
    own = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and name.endswith("Cache")
        and value.__module__ == module.__name__
    ]
    if not own:
        config: Any = model.config
        return DynamicCache(config=config)
    known = {
        "config": model.config,
        "batch_size": batch,
        "max_batch_size": batch,
        "dtype": model.dtype,
        "device": model.device,
    }
    parameters = inspect.signature(own[0]).parameters
    return own[0](**{name: value for name, value in known.items() if name in parameters})


class CacheMark:
    """The state of a cache after a context, to which it can be put back any number of times.

    A cache whose layers only append is cut back by length and not copied. Any other one (sliding windows, states of
    recurrent layers, caches that write in place) is copied for every use.
    """

    def __init__(self, cache: Any) -> None:
        from transformers import cache_utils

        self._cache = cache
        plain = getattr(cache_utils, "DynamicLayer", None)
        layers: Any = getattr(cache, "layers", None)
        self._appends = isinstance(layers, list) and bool(layers) and all(type(layer) is plain for layer in layers)
        self._length = int(cache.get_seq_length()) if self._appends else 0

    def restored(self, for_the_last_time: bool = False) -> Any:
        """The cache as it was. What an earlier call gave back must not be used any more; after the last time, this
        object neither."""
        if not self._appends:
            return self._cache if for_the_last_time else copy.deepcopy(self._cache)
        # A negative number of tokens to remove is what all versions understand.
        surplus = int(self._cache.get_seq_length()) - self._length
        if surplus > 0:
            self._cache.crop(-surplus)
        return self._cache
