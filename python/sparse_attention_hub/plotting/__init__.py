"""Plots of sparse attention."""

from .generator import PlotGenerator
from .granularity import Granularity

__all__ = ["Granularity", "PlotGenerator"]
