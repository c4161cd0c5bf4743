"""Bases of the maskers that keep some keys by chance."""

from __future__ import annotations

from dataclasses import dataclass

from ..base import MaskerConfig, ResearchMasker


@dataclass
class SamplingMaskerConfig(MaskerConfig):
    """Base of the configs of sampling maskers."""


class SamplingMasker(ResearchMasker):
    """Base of maskers that keep some keys by chance; a pipeline holds at most one."""
