"""Maskers that keep keys for certain."""

from __future__ import annotations

from .base import FixedMasker, FixedMaskerConfig, TopKMasker, TopKMaskerConfig, TopPMasker, TopPMaskerConfig
from .implementations import *  # noqa: F401,F403
from .implementations import __all__ as _implementations

__all__ = [
    "FixedMasker",
    "FixedMaskerConfig",
    "TopKMasker",
    "TopKMaskerConfig",
    "TopPMasker",
    "TopPMaskerConfig",
    *_implementations,
]
