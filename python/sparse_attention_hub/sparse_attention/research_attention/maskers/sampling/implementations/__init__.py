"""The sampling maskers, a module a method."""

from __future__ import annotations

from .adaptive_sampling import AdaptiveSamplingMasker, AdaptiveSamplingMaskerConfig
from .magic_pig import MagicPig, MagicPigConfig
from .random_sampling import RandomSamplingMasker, RandomSamplingMaskerConfig

__all__ = [
    "AdaptiveSamplingMasker",
    "AdaptiveSamplingMaskerConfig",
    "MagicPig",
    "MagicPigConfig",
    "RandomSamplingMasker",
    "RandomSamplingMaskerConfig",
]
