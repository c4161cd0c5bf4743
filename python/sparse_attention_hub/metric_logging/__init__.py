"""Metrics of sparse attention, logged as one JSON object a line."""

from __future__ import annotations

from .._core import JsonlSink, MemorySink, MetricSink, read_metric_log
from .logger import LogEvent, MicroMetricLogger

__all__ = ["JsonlSink", "LogEvent", "MemorySink", "MetricSink", "MicroMetricLogger", "read_metric_log"]
