"""Bases of the maskers that keep keys for certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ....utils.mask import Mask
from ..base import MaskerConfig, ResearchMasker


@dataclass
class FixedMaskerConfig(MaskerConfig):
    """Base of the configs of fixed maskers; itself the config of `CausalMasker`."""


class FixedMasker(ResearchMasker):
    """Base of maskers that keep keys for certain."""


@dataclass
class TopKMaskerConfig(FixedMaskerConfig):
    """Base of the configs of top-k maskers.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys. > 0.
    """

    heavy_size: float | int

    def __post_init__(self) -> None:
        if not self.masker_type and not self.heavy_size > 0:
            raise ValueError(f"heavy_size must be > 0, got {self.heavy_size}")
        super().__post_init__()


class TopKMasker(FixedMasker):
    """Base of maskers that keep the keys with the highest scores."""

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.heavy_size: int | float = getattr(config, "heavy_size")

    def _calculate_effective_heavy_size(self, seq_len_keys: int) -> int:
        return self._calculate_effective_size(self.heavy_size, seq_len_keys)

    def _get_topk_indices_from_inactive_positions(
        self, scores: torch.Tensor, previous_mask: Mask, k: int
    ) -> torch.Tensor:
        """The k highest scores [..., keys] outside `previous_mask`: indices [..., k], the lowest index among equals."""
        from ..... import _core  # noqa: F401  registers the operators

        return torch.ops.sparse_attention_hub.top_k_outside(scores, previous_mask.get_dense_mask(), k)


@dataclass
class TopPMaskerConfig(FixedMaskerConfig):
    """Base of the configs of top-p maskers.

    Attributes:
        top_p: Share of the attention mass to cover, a float in [0, 1].
    """

    top_p: float

    def __post_init__(self) -> None:
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be in range [0, 1], got {self.top_p}")


class TopPMasker(FixedMasker):
    """Base of maskers that keep the fewest keys which cover a share of the attention mass."""

    def __init__(self, config: Any) -> None:
        assert isinstance(config.top_p, float), "top_p must be set as a float in config"
        self.top_p = config.top_p
        super().__init__(config)
