"""What one point of a plot stands for."""

from __future__ import annotations

from enum import Enum


class Granularity(Enum):
    """A token, a head or a layer. `str` gives the value."""

    PER_TOKEN = "per_token"
    PER_HEAD = "per_head"
    PER_LAYER = "per_layer"

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"Granularity.{self.name}"
