"""Metrics of sparse attention, logged as one JSON object a line."""

from .logger import LogEvent, MicroMetricLogger

__all__ = ["LogEvent", "MicroMetricLogger"]
