"""Exact top-p on the attention mass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .....utils.mask import Mask
from ...base import AttentionTensorDimensions, MaskerRegistry
from ...core_masker import CoreMasker, MaskerCall
from ..base import TopPMasker, TopPMaskerConfig


def _masses() -> dict[str, Any]:
    return {"top_p": {"grid_search": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99]}}


@dataclass
class OracleTopPMaskerConfig(TopPMaskerConfig):
    """Config of `OracleTopPMasker`.

    Attributes:
        top_p: Share of the mass that earlier maskers leave, a float in [0, 1].
        search_space: For sweeps, in Ray Tune's form of a grid search.
        threshold_rule: "greater": cut where the running sum of mass is greater than top_p; "at_least": where it is
            at least top_p.
        coverage: top_p of the mass that earlier maskers leave ("residual") or of all mass ("total").
    """

    masker_type: ClassVar[str] = "oracle_top_p"

    search_space: dict[str, Any] = field(default_factory=_masses)
    threshold_rule: str = field(default="greater", kw_only=True)
    coverage: str = field(default="residual", kw_only=True)


@MaskerRegistry.register(OracleTopPMaskerConfig)
class OracleTopPMasker(CoreMasker, TopPMasker):
    """Keeps the fewest keys whose attention mass exceeds `top_p` of what earlier maskers leave."""

    config_class = OracleTopPMaskerConfig
    steps = ("_compute_exp_attention_scores", "_compute_top_p_thresholds")

    def _should_use_full_attention(self, dims: AttentionTensorDimensions) -> bool:
        return dims.seq_len_keys <= int(self.top_p * dims.seq_len_keys)

    def _compute_attention_scores(self, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Raw products q.k, float32 [batch, query heads, queries, keys]."""
        return torch.ops.sparse_attention_hub.attention_logits(queries, keys, None, 1.0)

    def _compute_exp_attention_scores(
        self,
        keys: torch.Tensor,
        queries: torch.Tensor,
        previous_dense_mask: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor:
        """exp(logit - row maximum) outside `previous_dense_mask`, 0 inside: [batch, query heads, queries, keys]."""
        attention_mask = self._additive(attention_mask, queries.shape[2])
        return torch.ops.sparse_attention_hub.remaining_mass(
            queries, keys, attention_mask, scaling, previous_dense_mask
        ).to(queries.dtype)

    def _compute_top_p_thresholds(self, scores: torch.Tensor, top_p: float) -> torch.Tensor:
        """The least score that belongs to the top `top_p` of each row's sum: scores [..., keys] to [..., 1]."""
        return torch.ops.sparse_attention_hub.top_p_thresholds(scores, top_p).to(scores.dtype)

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        dims = self._extract_tensor_dimensions(call.keys, call.queries)
        if self._should_use_full_attention(dims):
            return self._create_full_mask(dims, call.previous_mask.dtype, call.queries.device)
        previous = call.previous_mask.get_dense_mask()
        scores = self._compute_exp_attention_scores(call.keys, call.queries, previous, call.attention_mask, call.scaling)
        selected = scores >= self._compute_top_p_thresholds(scores, self.top_p)
        added = Mask.create_mask_from_dense_mask(
            tuple(selected.shape), selected.to(call.previous_mask.dtype), call.previous_mask.dtype
        )
        return call.previous_mask.merge_mask(added, inplace=False)
