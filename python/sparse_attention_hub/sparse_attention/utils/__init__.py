"""Masks, and attention under a mask."""

from __future__ import annotations

from .mask import Mask

__all__ = ["Mask"]
