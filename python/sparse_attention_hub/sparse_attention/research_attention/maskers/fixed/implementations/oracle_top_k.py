"""Exact top-k on the logits q.k."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...... import _core
from .....utils.mask import Mask
from ...base import AttentionTensorDimensions, MaskerRegistry
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig


def _heavy_sizes() -> dict[str, Any]:
    return {"heavy_size": {"grid_search": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10]}}


@dataclass
class OracleTopKConfig(TopKMaskerConfig):
    """Config of `OracleTopK`.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        search_space: For sweeps, in Ray Tune's form of a grid search.
    """

    masker_type: ClassVar[str] = "oracle_top_k"

    search_space: dict[str, Any] = field(default_factory=_heavy_sizes)


@MaskerRegistry.register(OracleTopKConfig)
class OracleTopK(CoreMasker, TopKMasker):
    """Keeps the keys with the highest logits: what selection by cheaper scores is measured against."""

    config_class = OracleTopKConfig

    def update_core(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        previous_dense_mask: torch.Tensor,
        effective_heavy_size: int,
        MIN_VALUE: float,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """`previous_dense_mask` with 1 at the top keys outside it; `MIN_VALUE` has no effect here."""
        previous = Mask.create_mask_from_dense_mask(
            tuple(previous_dense_mask.shape), previous_dense_mask, previous_dense_mask.dtype
        )
        return self._top(effective_heavy_size, keys, queries, attention_mask, previous).get_dense_mask()

    def get_updated_mask_new(
        self,
        tensor_dims: AttentionTensorDimensions,
        effective_heavy_size: int,
        keys: torch.Tensor,
        queries: torch.Tensor,
        attention_mask: torch.Tensor | None,
        previous_mask: Mask,
    ) -> Mask:
        return self._top(effective_heavy_size, keys, queries, attention_mask, previous_mask)

    get_updated_mask_old = get_updated_mask_new

    def get_updated_mask(
        self,
        tensor_dims: AttentionTensorDimensions,
        effective_heavy_size: int,
        keys: torch.Tensor,
        queries: torch.Tensor,
        attention_mask: torch.Tensor | None,
        previous_mask: Mask,
        mode: str = "new",
    ) -> Mask:
        """The top keys added to `previous_mask`; both modes give one result.

        Raises:
            ValueError: `mode` is neither "new" nor "old".
        """
        if mode not in ("new", "old"):
            raise ValueError(f"Invalid mode: {mode}, must be 'new' or 'old'")
        return self._top(effective_heavy_size, keys, queries, attention_mask, previous_mask)

    def _top(
        self,
        size: int,
        keys: torch.Tensor,
        queries: torch.Tensor,
        attention_mask: torch.Tensor | None,
        previous_mask: Mask,
    ) -> Mask:
        if size == 0:
            return previous_mask
        masker = _core.Masker(json.dumps({"type": "oracle_top_k", "heavy_size": int(size)}))
        inputs = self.attention_inputs(keys, queries, keys, attention_mask, 1.0, {})
        return Mask.from_core(masker.add_mask(inputs, previous_mask.to_core()), previous_mask.dtype)

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, heavy_size: int) -> bool:
        return dims.seq_len_keys <= heavy_size
