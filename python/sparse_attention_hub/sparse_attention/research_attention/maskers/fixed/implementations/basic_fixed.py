"""Maskers that look at positions only: attention sinks, the local window, and the causal pass-through."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...... import _core
from .....utils.mask import Mask
from ...base import AttentionTensorDimensions, MaskerConfig, MaskerRegistry, SparseMetaData
from ...core_masker import CoreMasker
from ..base import FixedMasker, FixedMaskerConfig


@dataclass
class LocalMaskerConfig(FixedMaskerConfig):
    """Config of `LocalMasker`.

    Attributes:
        window_size: Latest keys to keep, a query's own among them: an int is a count, a float a fraction of the keys.
        search_space: For sweeps.
    """

    masker_type: ClassVar[str] = "local"

    window_size: float | int
    search_space: dict[str, Any] = field(default_factory=dict)


@dataclass
class SinkMaskerConfig(FixedMaskerConfig):
    """Config of `SinkMasker`.

    Attributes:
        sink_size: Leading keys to keep: an int is a count, a float a fraction of the keys.
        search_space: For sweeps.
    """

    masker_type: ClassVar[str] = "sink"

    sink_size: float | int
    search_space: dict[str, Any] = field(default_factory=dict)


def _as_size(keys: int) -> int | float:
    """A number of keys as a config's size: 0, which no count may be, as a fraction too small for one key."""
    return int(keys) if keys > 0 else 1e-12


class _PositionMasker(CoreMasker, FixedMasker):
    """What maskers by position share: they need a mask's shape only."""

    def _on_positions(self, entry: dict[str, Any], previous_mask: Mask) -> Mask:
        """The masker of `entry` on keys that have no content."""
        batch, heads, queries, keys = previous_mask.shape
        blank = torch.zeros((batch, heads, max(queries, keys), 1), device=previous_mask.device)
        inputs = _core.AttentionInputs(blank[:, :, :queries], blank[:, :, :keys], blank[:, :, :keys])
        mask = _core.Masker(json.dumps(entry)).add_mask(inputs, previous_mask.to_core())
        return Mask.from_core(mask, previous_mask.dtype)


@MaskerRegistry.register(LocalMaskerConfig)
class LocalMasker(_PositionMasker):
    """Keeps the latest keys of every query: a sliding window."""

    config_class = LocalMaskerConfig

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.window_size = config.window_size  # type: ignore[attr-defined]

    def update_core(self, dense_mask: torch.Tensor, effective_window_size: int) -> torch.Tensor:
        """The window added to `dense_mask` [batch, heads, queries, keys], and what lies behind it cleared."""
        previous = Mask.create_mask_from_dense_mask(tuple(dense_mask.shape), dense_mask, dense_mask.dtype)
        return self._window(effective_window_size, previous).get_dense_mask()

    def update_core_broadcast(self, dense_mask: torch.Tensor, effective_window_size: int) -> torch.Tensor:
        """As `update_core`: the hub's form that loses the previous mask is not kept."""
        return self.update_core(dense_mask, effective_window_size)

    def get_updated_mask_1(
        self, tensor_dims: AttentionTensorDimensions, effective_window_size: int, keys: torch.Tensor, previous_mask: Mask
    ) -> Mask:
        return self._window(effective_window_size, previous_mask)

    get_updated_mask_2 = get_updated_mask_1
    get_updated_mask_3 = get_updated_mask_1

    def get_updated_mask(
        self,
        tensor_dims: AttentionTensorDimensions,
        effective_window_size: int,
        keys: torch.Tensor,
        previous_mask: Mask,
        mode: str = "dense2",
    ) -> Mask:
        """The window added to `previous_mask`. The hub's three modes give one result here.

        Raises:
            ValueError: `mode` is none of "dense1", "dense2", "sparse".
        """
        if mode not in ("dense1", "dense2", "sparse"):
            raise ValueError(f"Invalid mode: {mode}, must be 'dense1', 'dense2' or 'sparse'")
        return self._window(effective_window_size, previous_mask)

    def _window(self, size: int, previous_mask: Mask) -> Mask:
        # The window of a full mask's caller is as wide as asked; the masker itself falls back to full attention.
        return self._on_positions({"type": "local", "window_size": _as_size(size)}, previous_mask)

    def _calculate_effective_window_size(self, seq_len_keys: int) -> int:
        return self._calculate_effective_size(self.window_size, seq_len_keys)

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, window_size: int) -> bool:
        return dims.seq_len_keys <= window_size + dims.seq_len_queries


@MaskerRegistry.register(FixedMaskerConfig)
class CausalMasker(FixedMasker):
    """Passes every mask through: causality comes from the attention mask."""

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
        """`previous_mask` itself; an empty mask where there is none."""
        if previous_mask is not None:
            return previous_mask
        shape = (queries.shape[0], queries.shape[1], queries.shape[2], keys.shape[2])
        return Mask.create_empty_mask(shape, queries.dtype, queries.device)

    @classmethod
    def create_from_config(cls, config: MaskerConfig) -> CausalMasker:
        if type(config) is not FixedMaskerConfig:
            raise ValueError(f"Invalid config type: {type(config)}, expected FixedMaskerConfig")
        return cls(config)


@MaskerRegistry.register(SinkMaskerConfig)
class SinkMasker(_PositionMasker):
    """Keeps the leading keys: attention sinks (Xiao et al., 2023)."""

    config_class = SinkMaskerConfig

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.sink_size = config.sink_size  # type: ignore[attr-defined]

    def get_updated_mask_sparse(
        self, tensor_dims: AttentionTensorDimensions, effective_sink_size: int, keys: torch.Tensor, previous_mask: Mask
    ) -> Mask:
        return self._on_positions({"type": "sink", "sink_size": _as_size(effective_sink_size)}, previous_mask)

    get_updated_mask_dense = get_updated_mask_sparse

    def get_updated_mask(
        self,
        tensor_dims: AttentionTensorDimensions,
        effective_sink_size: int,
        keys: torch.Tensor,
        previous_mask: Mask,
        mode: str = "dense",
    ) -> Mask:
        """The sinks added to `previous_mask`; both modes give one result.

        Raises:
            ValueError: `mode` is neither "dense" nor "sparse".
        """
        if mode not in ("dense", "sparse"):
            raise ValueError(f"Invalid mode: {mode}, must be 'dense' or 'sparse'")
        return self.get_updated_mask_dense(tensor_dims, effective_sink_size, keys, previous_mask)

    def _calculate_effective_sink_size(self, seq_len_keys: int) -> int:
        return self._calculate_effective_size(self.sink_size, seq_len_keys)

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, sink_size: int) -> bool:
        return dims.seq_len_keys <= sink_size
