"""Appends to a metric log: one JSON object a line, with the Python hub's keys in its order.

    {"timestamp":"2025-03-01T09:30:00.000125","metric":"research_attention_density","value":0.02,
     "metadata":{"layer_idx":3},"location":"module.Class.function","seq":17,"crc":"9a3bd1f0"}

(on one line). The C++ reader checks the last two, which the hub does not have: `seq` counts the
lines of the file from 0, and `crc` is the CRC-32C in hexadecimal of the line without it,
`{...,"seq":17}`. Numbers that JSON does not have are "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import fcntl
import importlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_LOCK_SECONDS = 5.0  # a writer of this module holds the lock for one write
_BLOCK_BYTES = 1 << 16


def encode_line(fields: Mapping[str, Any], seq: int, crc32c: Callable[[bytes], int]) -> bytes:
    """One line with its end.

    Args:
        fields: the keys before `seq`, in order.
        seq: number of the line in its file.
        crc32c: the checksum of some bytes.
    """
    plain = to_json({**fields, "seq": seq})
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    body = text.encode("utf-8", "replace")
    return body[:-1] + b',"crc":"%08x"}\n' % crc32c(body)


def to_json(value: Any) -> Any:
    """A value of JSON's types for any value; one without a counterpart becomes its `str`."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(member) for member in value]
    if hasattr(value, "tolist"):  # a tensor, an array or a scalar of numpy
        return to_json(value.tolist())
    return str(value)


class JsonlFile:
    """A log that is continued: several processes may append, each write holds a lock.

    A killed process leaves whole lines or one torn line at the end, which the next write removes.
    A power failure may lose what was written last.
    """

    def __init__(self, path: str) -> None:
        """Opens nothing yet.

        Args:
            path: the file; its folder must exist when something is appended.
        """
        self.path = path
        self._end = (0, 0)  # inode and size after the last write
        self._next_seq = 0

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes one line a record: all of them, or none where it raises.

        Args:
            records: the keys before `seq`, in order.

        Raises:
            OSError: with the path; also where another writer keeps the file locked.
            RuntimeError: the compiled module is missing.
        """
        crc32c = _load_crc32c()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock(fd)
            status = os.fstat(fd)
            size = status.st_size
            if (status.st_ino, size) != self._end:
                size, self._next_seq = self._resume(fd, size)
            lines = [encode_line(r, self._next_seq + i, crc32c) for i, r in enumerate(records)]
            self._write(fd, size, b"".join(lines))
            self._next_seq += len(lines)
            self._end = (status.st_ino, os.fstat(fd).st_size)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor, too
            os.close(fd)

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BlockingIOError(
                        error.errno, "another writer has the log open", self.path
                    ) from error
            time.sleep(0.01)

    def _resume(self, fd: int, size: int) -> tuple[int, int]:
        """Size and next number of a file that somebody else has written."""
        tail = b""
        start = size
        while start > 0 and tail.count(b"\n") < 2:
            step = min(_BLOCK_BYTES, start)
            start -= step
            tail = os.pread(fd, step, start) + tail
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(fd, size - torn)
            size -= torn
            _warn(f"{self.path}: removed {torn} bytes of a line that was not finished")
        if size == 0:
            return 0, 0
        lines = tail[: len(tail) - torn].rstrip(b"\n").split(b"\n")
        try:
            last = json.loads(lines[-1])["seq"]
        except (ValueError, KeyError, TypeError):
            last = None
        if isinstance(last, int):
            return size, last + 1
        _warn(f"{self.path}: its lines have no checksums; only the new ones will have them")
        return size, _count_lines(fd, size)

    def _write(self, fd: int, size: int, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError as error:
            os.ftruncate(fd, size)  # so that a repetition does not follow a torn line
            raise OSError(error.errno, os.strerror(error.errno or 0), self.path) from error


def _count_lines(fd: int, size: int) -> int:
    return sum(
        os.pread(fd, _BLOCK_BYTES, start).count(b"\n") for start in range(0, size, _BLOCK_BYTES)
    )


def _load_crc32c() -> Callable[[bytes], int]:
    try:
        core = importlib.import_module(".._core", __package__)
    except ImportError as error:
        raise RuntimeError(
            "writing a metric log needs the compiled module sparse_attention_hub._core"
        ) from error
    crc32c: Callable[[bytes], int] = core.crc32c
    return crc32c


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
