"""Pipelines that JSON cannot describe, in models: maskers written in Python, and weights in memory.

They run through `ResearchAttention.custom_attention`, with an additive mask for each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..sparse_attention.research_attention.base import ResearchAttention
from .mask_function import MaskFacts, additive_of, seen_keys

if TYPE_CHECKING:
    from .dispatch import LayerStep


class PythonHost:
    """Stands for a `_core.HostAttention`."""

    def __init__(self, attention: ResearchAttention) -> None:
        self.attention = attention

    def is_dense_layer(self, layer: int, query_heads: int) -> bool:
        """Whether the pipeline has no maskers."""
        return not self.attention.maskers


class PythonSequence:
    """Stands for a `_core.Sequence`: what the maskers remember is in a dictionary."""

    def __init__(self, host: PythonHost) -> None:
        self._attention = host.attention
        self._meta_data: dict[str, Any] = {}

    def attend(self, step: LayerStep) -> torch.Tensor:
        """One step of one layer: [batch, query heads, queries, value dim].

        Raises:
            NotImplementedError: The model has a softcap.
        """
        if step.softcap is not None:
            raise NotImplementedError(
                f"layer {step.layer}: softcap is not supported with maskers written in Python, got {step.softcap}"
            )
        extra = {} if step.sinks is None else {"s_aux": step.sinks}
        out, _ = self._attention.custom_attention(
            None,
            step.query,
            step.key,
            step.value,
            step.bias if step.bias is not None else _additive_mask(step),
            step.query.shape[3] ** -0.5 if step.scale is None else step.scale,
            0.0,
            sparse_meta_data=self._meta_data,
            layer_idx=step.layer,
            **extra,
        )
        return out.transpose(1, 2)

    def prepare(self, inputs: Any) -> None:
        """Python maskers index what they meet."""

    def rewind(self) -> None:
        """The keys are cut back: what was remembered of the later ones is forgotten with the rest."""
        self._meta_data.clear()

    reset = rewind


def _additive_mask(step: LayerStep) -> torch.Tensor | None:
    """[1, 1, queries, keys] of a causal step; None where a query sees every key."""
    queries, keys = step.query.shape[2], step.key.shape[2]
    if queries == 1 and step.first == keys - 1 and (step.window is None or step.window >= keys):
        return None
    facts = MaskFacts((0,), step.first, 0, step.window)
    return additive_of(seen_keys(facts, queries, keys, step.query.device), step.query.dtype)
