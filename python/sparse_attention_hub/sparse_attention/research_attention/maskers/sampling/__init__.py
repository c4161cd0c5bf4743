"""Maskers that keep some keys by chance."""

from __future__ import annotations

from .base import SamplingMasker, SamplingMaskerConfig
from .implementations import (
    AdaptiveSamplingMasker,
    AdaptiveSamplingMaskerConfig,
    MagicPig,
    MagicPigConfig,
    RandomSamplingMasker,
    RandomSamplingMaskerConfig,
)

__all__ = [
    "AdaptiveSamplingMasker",
    "AdaptiveSamplingMaskerConfig",
    "MagicPig",
    "MagicPigConfig",
    "RandomSamplingMasker",
    "RandomSamplingMaskerConfig",
    "SamplingMasker",
    "SamplingMaskerConfig",
]
