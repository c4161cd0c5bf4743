"""Entries of `sparse_meta_data` in the Python hub's form, made when somebody looks at them.

The Python hub keeps what its maskers remember of a sequence as `sparse_meta_data[entry][layer]`. Here it is in the session
and packed; a `LayerView` stands in the dictionary and costs nothing until it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .... import _core

#: A layer's value in the Python hub's form.
LayerValue = torch.Tensor | None


class Rememberer(Protocol):
    """A masker that shows what it remembers."""

    _place: int

    def compiled(self) -> _core.Masker:
        """The masker in the C++ library."""

    def state_entry(
        self, entry: str, remembered: dict[str, torch.Tensor], layer: int, heads: int, dtype: torch.dtype
    ) -> LayerValue:
        """A tensor of its own, or None where nothing is remembered."""


class _Remembered:
    """Where a layer's value comes from: a masker and the session of the sequence, but neither keys nor queries."""

    __slots__ = ("masker", "session", "heads", "dtype")

    def __init__(self, masker: Rememberer, session: _core.Session, heads: int, dtype: torch.dtype) -> None:
        self.masker = masker
        self.session = session
        self.heads = heads
        self.dtype = dtype

    def read(self, entry: str, layer: int) -> LayerValue:
        remembered = self.masker.compiled().tensors(self.session, layer, self.masker._place)
        return self.masker.state_entry(entry, remembered, layer, self.heads, self.dtype)


if TYPE_CHECKING:
    _Dictionary = dict[int, Any]
else:

    class _Dictionary(MutableMapping, dict):
        """A dictionary all of whose methods go through `__getitem__`, which dict's own do not."""


class LayerView(_Dictionary):
    """One entry of `sparse_meta_data`: layer -> tensor, or None where nothing is remembered yet.

    Reading a layer gives a new tensor with the present state. A layer can be set to another tensor, which stands until
    the masker's next step. Copies and pickles are plain dictionaries with the tensors of that moment.
    """

    def __init__(self, entry: str, layers: dict[int, LayerValue] | None = None) -> None:
        dict.__init__(self, layers or {})
        self._entry = entry

    def show(self, layer: int, masker: Rememberer, session: _core.Session, heads: int, dtype: torch.dtype) -> None:
        """From now on `layer` shows what `masker` remembers in `session`, for `heads` query heads."""
        held = dict.get(self, layer)
        if type(held) is _Remembered and held.masker is masker and held.session is session:
            return
        dict.__setitem__(self, layer, _Remembered(masker, session, heads, dtype))

    def __getitem__(self, layer: int) -> LayerValue:
        held = dict.__getitem__(self, layer)
        return held.read(self._entry, layer) if type(held) is _Remembered else held

    def __setitem__(self, layer: int, value: LayerValue) -> None:
        dict.__setitem__(self, layer, value)

    def __delitem__(self, layer: int) -> None:
        dict.__delitem__(self, layer)

    def __iter__(self) -> Iterator[int]:
        # That this is defined here makes dict(view) and {**view} read values, too.
        return dict.__iter__(self)

    def __len__(self) -> int:
        return dict.__len__(self)

    def __contains__(self, layer: object) -> bool:
        return dict.__contains__(self, layer)

    def __repr__(self) -> str:
        return repr(self.copy())

    def copy(self) -> dict[int, LayerValue]:
        """A plain dictionary with the tensors of this moment."""
        return {layer: self[layer] for layer in self}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (self.copy(),)


def show_state(
    sparse_meta_data: dict[str, Any],
    entries: tuple[str, ...],
    layer: int,
    masker: Rememberer,
    session: _core.Session,
    heads: int,
    dtype: torch.dtype,
) -> None:
    """Lets `entries` of a sequence's dictionary show what `masker` remembers of `layer`."""
    for entry in entries:
        view = sparse_meta_data.get(entry)
        if type(view) is not LayerView:
            view = sparse_meta_data[entry] = LayerView(entry, view)
        view.show(layer, masker, session, heads, dtype)


def entry_of_layer(sparse_meta_data: dict[str, Any], entry: str, layer: int) -> LayerValue:
    """`sparse_meta_data[entry][layer]`, made as None where it is missing."""
    layers = sparse_meta_data.setdefault(entry, {})
    if layer not in layers:
        layers[layer] = None
    value: LayerValue = layers[layer]
    return value


def new_keys_of(keys: torch.Tensor, cached: int) -> torch.Tensor | None:
    """The keys [batch, heads, n, dim] behind the first `cached`; None where there are none.

    Raises:
        ValueError: There are fewer keys than `cached`.
    """
    count = keys.shape[2]
    if count < cached:
        raise ValueError(f"Current number of keys ({count}) is less than cached number of keys ({cached})")
    return keys[:, :, cached:] if count > cached else None


def per_query_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, KV heads, ...] repeated to [batch, heads, ...]."""
    return x.repeat_interleave(heads // x.shape[1], dim=1) if x.shape[1] else x
