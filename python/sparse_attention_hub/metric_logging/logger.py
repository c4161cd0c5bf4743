"""`MicroMetricLogger`: collects measurements in memory and appends them to a log file.

The names and rules are the Python hub's. What differs: `flush_interval` works, nothing is dropped
without a word, a sampling factor of 0 logs nothing, leaving the interpreter flushes and raises
nothing, threads may share the logger, and a forked child does not write its parent's events again.
"""

from __future__ import annotations

import atexit
import inspect
import multiprocessing.util
import os
import random
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from .jsonl import JsonlFile

if TYPE_CHECKING:
    from typing_extensions import Self

_FILE_NAME = "micro_metrics.jsonl"
_QUEUE_EVENTS = 10_000
_SPILL_EVENTS = 1_000  # events pushed out of the queue that are written together


@dataclass
class LogEvent:
    """One measurement.

    Attributes:
        timestamp: local time.
        metric: identifier of the metric.
        value: what was measured.
        metadata: where it was measured: `layer_idx` and the like.
        location: "module.Class.function" that logged it.
    """

    timestamp: datetime
    metric: str
    value: Any
    metadata: dict[str, Any]
    location: str


class MicroMetricLogger:
    """The metric log of the process. The first construction makes it, later ones return it.

    Events wait in `log_queue` until `flush_every` of them have come together, `flush_interval` has
    passed at the next event, `flush` is called, or the process or a worker of multiprocessing ends.
    A queue that is full hands its oldest events to the file. What cannot be written stays, and
    only where there is no more room for it is dropped, counted and reported.

    Attributes:
        log_path: folder of the log; None while logging is not configured.
        flush_every: events that are written together.
        flush_interval: seconds after which waiting events are written with the next one.
        enabled_metrics: identifiers that are logged.
        log_queue: the last events that wait, at most 10,000.
        last_flush_time: seconds since the epoch of the last write.
        dropped_events: events lost because they could not be written.
    """

    _instance: ClassVar[MicroMetricLogger | None] = None
    _initialized: ClassVar[bool] = False
    _registered_metrics: ClassVar[dict[str, type]] = {}
    _creation_lock: ClassVar[threading.RLock] = threading.RLock()
    _loggers: ClassVar[weakref.WeakSet[MicroMetricLogger]] = weakref.WeakSet()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        with MicroMetricLogger._creation_lock:
            logger = MicroMetricLogger._instance
            if not isinstance(logger, cls):
                logger = super().__new__(cls)
                MicroMetricLogger._instance = logger
            return logger

    def __init__(
        self,
        log_path: str | None = None,
        flush_every: int = 1000,
        flush_interval: float = 60.0,
        enabled_metrics: Collection[str] | str | None = None,
        max_records: int | None = None,
        sampling_factor: float = 1.0,
    ) -> None:
        """Sets the logger up, the first time; later arguments change nothing.

        Args:
            log_path: folder of the log, which is created; None to configure later.
            flush_every: events that are written together.
            flush_interval: seconds.
            enabled_metrics: as for `enable_metrics`, where there is a `log_path`.
            max_records: events after which no more are taken; None for no limit.
            sampling_factor: share of the events that are taken, drawn at random; clamped to
                [0, 1].

        Raises:
            OSError: the folder cannot be created.
        """
        with MicroMetricLogger._creation_lock:
            if hasattr(self, "log_queue"):
                if MicroMetricLogger._initialized:
                    if log_path is not None and log_path != self.log_path:
                        print(
                            f"Warning: MicroMetricLogger already exists and logs to "
                            f"{self.log_path}, not to {log_path}: use configure_logging"
                        )
                    return
                self._flush_or_warn()
            self._lock = threading.RLock()
            self._file: JsonlFile | None = None
            self._spill: list[LogEvent] = []  # pushed out of the queue, older than all of it
            self._warned: set[tuple[str, str]] = set()
            self._write_failed = False
            self._flush_at_length = flush_every
            self.log_path: str | None = None
            self.flush_every = flush_every
            self.flush_interval = flush_interval
            self.enabled_metrics: set[str] = set()
            self.log_queue: deque[LogEvent] = deque(maxlen=_QUEUE_EVENTS)
            self.last_flush_time = time.time()
            self.dropped_events = 0
            self.max_records = max_records
            self.sampling_factor = _clamp(sampling_factor)
            self.total_records_logged = 0
            if log_path is not None:
                self.configure_logging(log_path, enabled_metrics, max_records, sampling_factor)
            MicroMetricLogger._initialized = True
            MicroMetricLogger._loggers.add(self)

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "log_queue"):
            self._flush_or_warn()

    @classmethod
    def register_metric(cls, identifier: str, dtype: type) -> None:
        """Makes a metric known; registering again prints a warning and replaces the type.

        Args:
            identifier: its name.
            dtype: type of its values; information only, values are not checked.
        """
        known = cls._registered_metrics.get(identifier)
        if known is not None:
            print(
                f"Warning: Metric '{identifier}' is being re-registered "
                f"({known.__name__} becomes {dtype.__name__})"
            )
        cls._registered_metrics[identifier] = dtype

    @classmethod
    def get_registered_metrics(cls) -> dict[str, type]:
        """Identifier to type, a copy."""
        return dict(cls._registered_metrics)

    def enable_metrics(self, metrics: Collection[str] | str | None = None) -> None:
        """Chooses what is logged.

        Args:
            metrics: "all" for every metric registered now; or a list, tuple or set of identifiers,
                of which those that are not registered are left out with a printed warning;
                anything else for none.
        """
        with self._lock:
            self._warned.clear()
            registered = self._registered_metrics.keys()
            if metrics == "all":
                self.enabled_metrics = set(registered)
            elif isinstance(metrics, (list, tuple, set, frozenset)):
                unknown = set(metrics) - registered
                if unknown:
                    print(
                        "Warning: Attempting to enable unregistered metrics: "
                        f"{', '.join(sorted(map(str, unknown)))}"
                    )
                self.enabled_metrics = set(metrics) & registered
            else:
                self.enabled_metrics = set()

    def configure_logging(
        self,
        log_path: str,
        enabled_metrics: Collection[str] | str | None = None,
        max_records: int | None = None,
        sampling_factor: float = 1.0,
    ) -> None:
        """Starts a log, or goes on in another folder. The count of records begins again at 0.

        Events that wait stay in the queue and go to the new folder: flush first to keep them in
        the old one.

        Args:
            log_path: folder of the log, which is created.
            enabled_metrics: as for `enable_metrics`.
            max_records: as for the constructor.
            sampling_factor: as for the constructor.

        Raises:
            OSError: the folder cannot be created.
        """
        with self._lock:
            os.makedirs(log_path, exist_ok=True)
            self.log_path = log_path
            self.max_records = max_records
            self.sampling_factor = _clamp(sampling_factor)
            self.total_records_logged = 0
            self.enable_metrics(enabled_metrics)

    def log(self, identifier: str, value: Any, metadata: dict[str, Any] | None = None) -> None:
        """Takes an event, unless the metric is not enabled, the limit is reached or chance says no.

        Where logging is not configured or the metric is not enabled a warning is printed, once a
        metric. Trouble with the file is a warning here; `flush` raises it.

        Args:
            identifier: the metric.
            value: a number, or None; one-element tensors are read now.
            metadata: anything that describes the event; copied.
        """
        with self._lock:
            if self.log_path is None:
                self._warn_once(
                    "path", identifier,
                    f"Warning: Cannot log metric '{identifier}' - log_path not defined",
                )
                return
            if identifier not in self.enabled_metrics:
                self._warn_once(
                    "enabled", identifier,
                    f"Warning: Attempting to log metric '{identifier}' which is not enabled",
                )
                return
            if self.is_max_records_reached():
                return
            if self.sampling_factor < 1.0 and random.random() >= self.sampling_factor:
                return
            if callable(getattr(value, "numel", None)) and value.numel() == 1:
                value = value.item()
            if len(self.log_queue) == self.log_queue.maxlen:
                self._spill.append(self.log_queue.popleft())
            self.log_queue.append(
                LogEvent(
                    datetime.now(), identifier, value, dict(metadata or {}), _calling_location()
                )
            )
            self.total_records_logged += 1
            self._flush_if_due()

    def flush(self) -> None:
        """Appends the waiting events to `micro_metrics.jsonl` in the folder and forgets them.

        Raises:
            OSError: the file cannot be written; the events stay.
            RuntimeError: the compiled module is missing; the events stay.
        """
        with self._lock:
            if self.log_path is None or not (self._spill or self.log_queue):
                return
            self._write([*self._spill, *self.log_queue])
            self._spill.clear()
            self.log_queue.clear()
            self._flush_at_length = self.flush_every

    def is_metric_enabled(self, identifier: str) -> bool:
        """Whether events of this metric are taken."""
        return identifier in self.enabled_metrics

    def get_enabled_metrics(self) -> set[str]:
        """Identifiers of the enabled metrics, a copy."""
        return set(self.enabled_metrics)

    def is_logging_configured(self) -> bool:
        """Whether there is a folder to log to."""
        return self.log_path is not None

    def get_total_records_logged(self) -> int:
        """Events taken since logging was configured, whether written yet or not."""
        return self.total_records_logged

    def is_max_records_reached(self) -> bool:
        """Whether no more events are taken."""
        return self.max_records is not None and self.total_records_logged >= self.max_records

    def get_records_remaining(self) -> int | None:
        """Events that will still be taken; None without a limit."""
        if self.max_records is None:
            return None
        return max(0, self.max_records - self.total_records_logged)

    def get_sampling_factor(self) -> float:
        """Share of the events that are taken, in [0, 1]."""
        return self.sampling_factor

    def get_max_records(self) -> int | None:
        """The limit; None for none."""
        return self.max_records

    def _flush_if_due(self) -> None:
        # After a failure the next attempt waits for `flush_every` more events: not one an event.
        waiting = len(self._spill) + len(self.log_queue)
        elapsed = time.time() - self.last_flush_time  # negative where the clock was set back
        overdue = not 0 <= elapsed < self.flush_interval and not self._write_failed
        due = waiting >= self._flush_at_length or overdue
        if due and not self._flush_or_warn():
            self._flush_at_length = waiting + max(1, self.flush_every)
        if len(self._spill) >= _SPILL_EVENTS:
            self._write_spill()

    def _write_spill(self) -> None:
        try:
            self._write(self._spill)
        except (OSError, RuntimeError) as error:
            self.dropped_events += len(self._spill)
            _report(
                f"{len(self._spill)} metric events were dropped, {self.dropped_events} in all: "
                f"{error}"
            )
        self._spill.clear()

    def _write(self, events: Iterable[LogEvent]) -> None:
        assert self.log_path is not None
        path = os.path.join(self.log_path, _FILE_NAME)
        if self._file is None or self._file.path != path:
            self._file = JsonlFile(path)
        self._file.append([_fields(event) for event in events])
        self.last_flush_time = time.time()
        self._write_failed = False

    def _flush_or_warn(self) -> bool:
        """Flushes where nobody expects an error; says what failed, and whether it worked."""
        try:
            self.flush()
        except Exception as error:
            self._write_failed = True
            _report(f"metric events were not written and stay in memory: {error}")
            return False
        return True

    def _warn_once(self, reason: str, identifier: str, text: str) -> None:
        if (reason, identifier) not in self._warned:
            self._warned.add((reason, identifier))
            print(text)

    def _forget_events_of_parent(self) -> None:
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self.log_queue.clear()
        self._spill.clear()


def _fields(event: LogEvent) -> dict[str, Any]:
    return {
        "timestamp": event.timestamp.isoformat(timespec="microseconds"),
        "metric": event.metric,
        "value": event.value,
        "metadata": event.metadata,
        "location": event.location,
    }


def _clamp(factor: float) -> float:
    return min(1.0, max(0.0, factor))


def _calling_location() -> str:
    """Where the caller of `log` is: "module.Class.function", or "module.function"."""
    try:
        frame = sys._getframe(2)
        module = frame.f_globals["__name__"]
        function = frame.f_code.co_name
        names = frame.f_locals
        owner = names.get("self")
        if type(names) is dict and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            names.clear()  # a copy, which would keep the caller's tensors until it returns
    except Exception:
        return "unknown"
    if owner is None:
        return f"{module}.{function}"
    return f"{module}.{type(owner).__name__}.{function}"


def _report(text: str) -> None:
    """A warning that is never an exception, also while the interpreter is being left."""
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except Exception:
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")


def _flush_all() -> None:
    for logger in list(MicroMetricLogger._loggers):
        logger._flush_or_warn()


def _forget_in_child() -> None:
    MicroMetricLogger._creation_lock = threading.RLock()
    for logger in list(MicroMetricLogger._loggers):
        logger._forget_events_of_parent()


def _flush_when_worker_ends(_: object) -> None:
    multiprocessing.util.Finalize(None, _flush_all, exitpriority=0)


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_forget_in_child)
# Forked workers of multiprocessing leave without atexit, but run their finalizers.
multiprocessing.util.register_after_fork(MicroMetricLogger, _flush_when_worker_ends)
