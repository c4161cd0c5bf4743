"""The base of maskers and of their configs, and the registry that joins the two."""

from __future__ import annotations

import dataclasses
import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Mapping, TypeVar

import torch

from ...utils.mask import Mask

#: Keys of `sparse_meta_data` and of a caller's keyword arguments.
SparseMetaData = dict[str, Any]


@dataclass
class MaskerConfig:
    """A plain record: compared by value, checked when it is made.

    Subclasses that describe a masker of the C++ library name its type and list its fields; the rules of
    the fields are the library's, so that Python, C++ and JSON refuse the same values.
    """

    #: "type" of the masker's JSON entry; "" for bases and for maskers written in Python.
    masker_type: ClassVar[str] = ""
    #: Fields that JSON does not carry.
    python_only: ClassVar[frozenset[str]] = frozenset({"search_space"})

    def __post_init__(self) -> None:
        if self.masker_type:
            _check_entry(self.to_entry(), type(self))

    def to_entry(self) -> dict[str, Any]:
        """The masker's entry in a pipeline: {"type": ..., field: value}. None and Python-only fields are left out.

        Raises:
            TypeError: The masker is not one of the C++ library.
        """
        if not self.masker_type:
            raise TypeError(f"{type(self).__name__} has no entry in a JSON pipeline")
        entry: dict[str, Any] = {"type": self.masker_type}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in self.python_only and value is not None:
                entry[field.name] = plain_value(value)
        return entry


def plain_value(value: Any) -> Any:
    """A number of any library as Python's, so that an integer stays a count and a float a fraction."""
    if isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def _check_entry(entry: Mapping[str, Any], config_type: type[MaskerConfig]) -> None:
    import json

    from .... import _core

    for name, value in entry.items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
            raise ValueError(f"{entry['type']}.{name} {_rule(entry['type'], name)}, got {value}")
    try:
        text = json.dumps(entry)
    except TypeError as error:
        raise TypeError(f"{config_type.__name__}: {error}") from None
    _core.check_masker(text)


def _rule(masker_type: str, field: str) -> str:
    from .... import _core

    for descriptor in _core.masker_descriptors():
        if descriptor["type"] == masker_type:
            for described in descriptor["fields"]:
                if described["name"] == field and described["rule"]:
                    return str(described["rule"])
    return "must be a finite number"


@dataclass(frozen=True)
class AttentionTensorDimensions:
    """The sizes of one attention step.

    Attributes:
        batch_size: Sequences.
        num_heads: Query heads.
        seq_len_queries: Queries of the step.
        seq_len_keys: Keys of the cache.
    """

    batch_size: int
    num_heads: int
    seq_len_queries: int
    seq_len_keys: int


_Registered = TypeVar("_Registered", bound="type[ResearchMasker]")


class MaskerRegistry:
    """Which masker class belongs to which config class."""

    _registry: ClassVar[dict[type[MaskerConfig], type[ResearchMasker]]] = {}

    @classmethod
    def register(cls, config_type: type[MaskerConfig]) -> Callable[[_Registered], _Registered]:
        """A class decorator; a later registration of the same config class replaces an earlier one."""

        def decorate(masker_type: _Registered) -> _Registered:
            cls._registry[config_type] = masker_type
            return masker_type

        return decorate

    @classmethod
    def get_masker_class(cls, config_type: type[MaskerConfig]) -> type[ResearchMasker]:
        """The masker class of exactly `config_type`.

        Raises:
            ValueError: None is registered.
        """
        masker_type = cls._registry.get(config_type)
        if masker_type is None:
            raise ValueError(f"No masker class registered for config type: {config_type}")
        return masker_type

    @classmethod
    def get_all_registered_types(cls) -> dict[type[MaskerConfig], type[ResearchMasker]]:
        """A copy of the registry."""
        return dict(cls._registry)

    @classmethod
    def create_masker(cls, config: MaskerConfig) -> ResearchMasker:
        """The masker of a config: `ResearchMasker.create_masker_from_config` under its older name."""
        return cls.get_masker_class(type(config)).create_from_config(config)


class ResearchMasker(ABC):
    """One step of a pipeline: adds the keys that a method keeps to the mask of the maskers before it.

    A method of one's own is a config (a dataclass that extends `MaskerConfig`) and a subclass of this with
    `add_mask` and `create_from_config`, joined by `@MaskerRegistry.register(TheConfig)`. It works in pipelines
    together with the C++ maskers.
    """

    def __init__(self, config: MaskerConfig) -> None:
        self.config = config

    @abstractmethod
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
        """`previous_mask` united with what this method keeps.

        Args:
            keys: [batch, KV heads, keys, dim].
            queries: [batch, query heads, queries, dim].
            values: [batch, KV heads, keys, value dim].
            attention_mask: Additive, [batch or 1, heads or 1, queries or 1, >= keys], or None.
            scaling: Factor of the logits q.k.
            dropout: Of the attention weights; no masker of this library uses it.
            sparse_meta_data: What maskers remember of the sequence, one dictionary a sequence, owned by the caller.
            previous_mask: [batch, query heads, queries, keys].
            **kwargs: `layer_idx` and whatever else the host model passes.
        """

    @classmethod
    @abstractmethod
    def create_from_config(cls, config: MaskerConfig) -> ResearchMasker:
        """The masker of a config of its own kind.

        Raises:
            ValueError: The config is of another kind.
        """

    @classmethod
    def create_masker_from_config(cls, config: MaskerConfig) -> ResearchMasker:
        """The masker of any registered config.

        Raises:
            ValueError: No masker is registered for the type of `config`.
        """
        return MaskerRegistry.create_masker(config)

    def _extract_tensor_dimensions(self, keys: torch.Tensor, queries: torch.Tensor) -> AttentionTensorDimensions:
        return AttentionTensorDimensions(queries.shape[0], queries.shape[1], queries.shape[2], keys.shape[2])

    def _create_full_mask(
        self, dims: AttentionTensorDimensions, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Mask:
        return Mask.create_full_mask(_shape(dims), dtype, torch.device(device))

    def _create_mask_from_rowise_indices(
        self, dims: AttentionTensorDimensions, indices: torch.Tensor, device: torch.device | str, dtype: torch.dtype
    ) -> Mask:
        return Mask.create_from_row_wise_idx(
            shape=_shape(dims),
            row_wise_idx=indices,
            data=torch.ones(indices.shape, dtype=dtype, device=device),
            mask_type="dense",
            dtype=dtype,
        )

    def _calculate_effective_size(self, size_param: int | float, seq_len_keys: int) -> int:
        """A float is a fraction of the keys, truncated; anything else a count."""
        return int(size_param * seq_len_keys) if isinstance(size_param, float) else int(size_param)


def _shape(dims: AttentionTensorDimensions) -> tuple[int, int, int, int]:
    return (dims.batch_size, dims.num_heads, dims.seq_len_queries, dims.seq_len_keys)
