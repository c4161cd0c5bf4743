"""Maskers: the methods of a pipeline."""

from __future__ import annotations

from . import fixed, sampling  # noqa: F401  registers every masker
from .base import MaskerConfig, MaskerRegistry, ResearchMasker

__all__ = ["MaskerConfig", "MaskerRegistry", "ResearchMasker"]
