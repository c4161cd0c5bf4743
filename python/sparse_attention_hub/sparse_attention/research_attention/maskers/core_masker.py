"""Maskers whose method is C++: what joins `_core.Masker` and the hub's calling conventions."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch

from .... import _core
from ...utils.mask import Mask
from .base import MaskerConfig, ResearchMasker, SparseMetaData
from .layer_view import LayerValue, show_state

#: Where `sparse_meta_data` holds what the C++ maskers remember of the sequence.
SESSION_KEY = "sparse_attention_hub_session"

_places = itertools.count()


@dataclass(frozen=True)
class PipelineOptions:
    """What a whole pipeline decides for its maskers.

    Attributes:
        seed: Of every random draw, together with layer, head and absolute query position.
        selection: "query_head": every query head selects for itself; "kv_group": the query heads that share a KV
            head select together.
        group_reduce: With "kv_group", how scores of a group become one: "max", "mean" or "sum".
    """

    seed: int = 42
    selection: str = "query_head"
    group_reduce: str = "max"

    def as_kwargs(self) -> dict[str, Any]:
        return {"seed": self.seed, "selection": self.selection, "group_reduce": self.group_reduce}


@dataclass(frozen=True)
class MaskerCall:
    """The arguments of one `add_mask`, its attention mask additive with a row for each query."""

    keys: torch.Tensor
    queries: torch.Tensor
    attention_mask: torch.Tensor | None
    scaling: float
    sparse_meta_data: SparseMetaData | None
    previous_mask: Mask
    kwargs: dict[str, Any]


def session_of(sparse_meta_data: SparseMetaData | None) -> _core.Session | None:
    """The session in a sequence's dictionary, made at the first use; None without a dictionary."""
    if sparse_meta_data is None:
        return None
    return cast(_core.Session, sparse_meta_data.setdefault(SESSION_KEY, _core.Session()))


_Masker = TypeVar("_Masker", bound="CoreMasker")


class CoreMasker(ResearchMasker):
    """A masker of the C++ library. Subclasses name their config class and what they ask of a call."""

    config_class: ClassVar[type[MaskerConfig]]
    #: Whether a call needs `sparse_meta_data` and `layer_idx`, as in the Python hub.
    needs_meta_data: ClassVar[bool] = False
    #: Whether it remembers anything between steps.
    keeps_state: ClassVar[bool] = False
    #: What an attention mask says: which keys are forbidden and nothing else, True and every number below 0, the hub's
    #: meaning in these maskers. Others add it to the logits, and refuse bool masks, except those of one value
    #: throughout, which hide nothing.
    mask_only_forbids: ClassVar[bool] = False
    #: Whether the C++ masker, which reads the files that the config names, is made at the first step, not at once.
    reads_files_late: ClassVar[bool] = False
    #: Entries of `sparse_meta_data` in which the Python hub keeps what this masker remembers.
    state_entries: ClassVar[tuple[str, ...]] = ()
    #: Methods that `add_mask` consists of in the Python hub. Where one is replaced, by a subclass or on an object,
    #: `add_mask` goes through them one by one, by the hub's rule.
    steps: ClassVar[tuple[str, ...]] = ()
    _library_steps: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "steps" in vars(cls):
            cls._library_steps = {name: getattr(cls, name) for name in cls.steps}

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self._place = next(_places)
        self.set_options(PipelineOptions())

    def set_options(self, options: PipelineOptions) -> None:
        """The pipeline's seed and selection, for maskers that are made one by one."""
        self._options = options
        self._compiled = None if self.reads_files_late else self._make_core(options)

    def compiled(self) -> _core.Masker:
        """The C++ masker.

        Raises:
            ValueError: A file that the config names cannot be read.
        """
        if self._compiled is None:
            self._compiled = self._make_core(self._options)
        return self._compiled

    def _make_core(self, options: PipelineOptions) -> _core.Masker:
        return _core.Masker(json.dumps(self.config.to_entry()), **options.as_kwargs())

    @classmethod
    def create_from_config(cls: type[_Masker], config: MaskerConfig) -> _Masker:
        if not isinstance(config, cls.config_class):
            raise ValueError(f"Invalid config type: {type(config)}, expected {cls.config_class.__name__}")
        return cls(config)

    def add_mask(
        self,
        keys: torch.Tensor,
        queries: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float = 1.0,
        dropout: float = 0.0,
        sparse_meta_data: SparseMetaData | None = None,
        previous_mask: Mask | None = None,
        **kwargs: Any,
    ) -> Mask:
        """See `ResearchMasker.add_mask`. A full `previous_mask` comes back as the same object.

        Raises:
            ValueError: Shapes do not fit, or `sparse_meta_data` or `layer_idx` is missing where the method needs it.
        """
        if self.needs_meta_data:
            self._validate_inputs(sparse_meta_data, kwargs)
        if previous_mask is not None and previous_mask.is_full_mask():
            return previous_mask
        inputs = self.attention_inputs(keys, queries, values, attention_mask, scaling, kwargs)
        if previous_mask is None:
            previous_mask = Mask.create_empty_mask(inputs.shape, queries.dtype, queries.device)
        if self.adds_nothing():
            return previous_mask
        if self.steps_are_replaced():
            bias = self._additive(attention_mask, queries.shape[2])
            return self._add_mask_in_steps(
                MaskerCall(keys, queries, bias, scaling, sparse_meta_data, previous_mask, kwargs)
            )
        session = session_of(sparse_meta_data) if self.keeps_state else None
        mask = self.compiled().add_mask(inputs, previous_mask.to_core(), session, self._place)
        if sparse_meta_data is not None and session is not None and not mask.is_full:
            self.show_state(sparse_meta_data, session, queries, keys, kwargs)
        return Mask.from_core(mask, previous_mask.dtype)

    def adds_nothing(self) -> bool:
        """Whether this masker's settings switch it off, so that every mask passes through."""
        return False

    def steps_are_replaced(self) -> bool:
        """Whether one of `steps` is not the library's own."""
        own = vars(self)
        return any(
            name in own or getattr(type(self), name) is not original for name, original in self._library_steps.items()
        )

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        """What `add_mask` does through `steps`; maskers that name steps define it."""
        raise NotImplementedError(f"{type(self).__name__} has no steps")

    def show_state(
        self,
        sparse_meta_data: SparseMetaData,
        session: _core.Session,
        queries: torch.Tensor,
        keys: torch.Tensor,
        kwargs: dict[str, Any],
    ) -> None:
        """Lets `sparse_meta_data` show what this masker remembers in `session` of the step's layer."""
        if self.state_entries:
            layer = int(kwargs["layer_idx"])
            show_state(sparse_meta_data, self.state_entries, layer, self, session, queries.shape[1], keys.dtype)

    def state_entry(
        self, entry: str, remembered: dict[str, torch.Tensor], layer: int, heads: int, dtype: torch.dtype
    ) -> LayerValue:
        """An entry of `sparse_meta_data` in the Python hub's form.

        Args:
            entry: One of `state_entries`.
            remembered: What the C++ masker remembers of the layer, by name; nothing before the first step.
            layer: Of the host model.
            heads: Query heads.
            dtype: Of the keys.
        """
        raise KeyError(entry)

    def _validate_inputs(self, sparse_meta_data: SparseMetaData | None, kwargs: dict[str, Any]) -> int:
        """The layer of a step."""
        if sparse_meta_data is None:
            raise ValueError("sparse_meta_data cannot be None")
        layer: int | None = kwargs.get("layer_idx")
        if layer is None:
            raise ValueError("layer_idx must be provided in kwargs")
        return layer

    def attention_inputs(
        self,
        keys: torch.Tensor,
        queries: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        kwargs: dict[str, Any],
    ) -> _core.AttentionInputs:
        """The step as the C++ library takes it."""
        bias = self._additive(attention_mask, queries.shape[2])
        layer = kwargs.get("layer_idx")
        return _core.AttentionInputs(
            queries, keys, values, bias=bias, scale=scaling, layer=0 if layer is None else int(layer)
        )

    def _additive(self, attention_mask: torch.Tensor | None, queries: int) -> torch.Tensor | None:
        """The attention mask of a call as this masker reads it, with a row for each query; None: nothing is hidden."""
        if attention_mask is None:
            return None
        if self.mask_only_forbids and attention_mask.is_floating_point():
            attention_mask = attention_mask.masked_fill(attention_mask < 0, -torch.inf)
        return additive_mask(attention_mask, queries, self.mask_only_forbids, type(self).__name__)


def additive_mask(attention_mask: torch.Tensor, queries: int, bool_forbids: bool, name: str) -> torch.Tensor | None:
    """An attention mask of any rank as an additive one [batch or 1, heads or 1, queries, keys]; None: nothing is hidden.

    Args:
        attention_mask: [batch or 1, heads or 1, queries or 1, keys], [batch or 1, queries or 1, keys] or
            [queries or 1, keys]. One row for all queries is not copied.
        queries: How many the step has.
        bool_forbids: Whether True forbids in a bool mask; else it may mean either, and only a mask of one value
            throughout, which hides nothing, is taken.
        name: Of who is called, for the error.

    Raises:
        ValueError: The mask is bool, of both values, and whoever is called does not say what True means.
    """
    if attention_mask.dtype == torch.bool:
        if not bool_forbids:
            # Whichever value allows, a mask of one value means that all keys are seen: nobody attends to none.
            if bool(attention_mask.all()) or not bool(attention_mask.any()):
                return None
            raise ValueError(
                f"{name}: attention_mask must be additive (floating), got a bool mask: libraries disagree whether True "
                "allows or forbids"
            )
        blank = torch.zeros(attention_mask.shape, dtype=torch.float32, device=attention_mask.device)
        attention_mask = blank.masked_fill_(attention_mask, -torch.inf)
    if attention_mask.dim() == 2:
        attention_mask = attention_mask[None, None]
    elif attention_mask.dim() == 3:
        attention_mask = attention_mask[:, None]
    if attention_mask.dim() == 4 and attention_mask.shape[2] == 1 and queries != 1:
        attention_mask = attention_mask.expand(-1, -1, queries, -1)
    return attention_mask


def has_low_terms(attention_mask: torch.Tensor) -> bool:
    """Whether numbers below 0 are in a mask which the C++ library adds, and does not take for forbidden."""
    if not attention_mask.is_floating_point():
        return False
    forbidden = torch.finfo(attention_mask.dtype).min / 2
    return bool(((attention_mask < 0) & (attention_mask > forbidden)).any())


def runs_in_core(masker: ResearchMasker) -> bool:
    """Whether the C++ library may run the masker: nobody has replaced its method."""
    return (
        isinstance(masker, CoreMasker)
        and type(masker).add_mask is CoreMasker.add_mask
        and "add_mask" not in vars(masker)
        and not masker.steps_are_replaced()
    )
