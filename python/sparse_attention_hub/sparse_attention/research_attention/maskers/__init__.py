"""Maskers: the methods of a pipeline."""

from __future__ import annotations

from .base import MaskerConfig, MaskerRegistry, ResearchMasker
from .fixed import *  # noqa: F401,F403  registers every masker
from .sampling import *  # noqa: F401,F403

__all__ = ["MaskerConfig", "MaskerRegistry", "ResearchMasker"]
