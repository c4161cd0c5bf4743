"""Maskers that keep some keys by chance."""

from __future__ import annotations

from .base import SamplingMasker, SamplingMaskerConfig
from .implementations import *  # noqa: F401,F403
from .implementations import __all__ as _implementations

__all__ = ["SamplingMasker", "SamplingMaskerConfig", *_implementations]
