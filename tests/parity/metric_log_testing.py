"""What the tests of the metric log share: a logger of its own for each test, and a reader."""
import gc
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from sparse_attention_hub.metric_logging.logger import MicroMetricLogger

FILE = "micro_metrics.jsonl"
KEYS = ["timestamp", "metric", "value", "metadata", "location", "seq", "crc"]


def crc32c(data, table=[]):
    """CRC-32C (RFC 3720), the independent definition of what the lines must carry."""
    if not table:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
            table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@pytest.fixture(autouse=True)
def core(monkeypatch):
    """The compiled module; where it is not built, a FAKE of its crc32c stands for it."""
    name = "sparse_attention_hub._core"
    try:
        return importlib.import_module(name)
    except ImportError:
        fake = types.ModuleType(name)
        fake.crc32c = crc32c
        monkeypatch.setitem(sys.modules, name, fake)
        return fake


def reset():
    MicroMetricLogger._instance = None
    MicroMetricLogger._initialized = False


@pytest.fixture(autouse=True)
def new_logger(core):
    registered = dict(MicroMetricLogger._registered_metrics)
    MicroMetricLogger._registered_metrics.clear()
    for identifier in ("density", "error"):
        MicroMetricLogger.register_metric(identifier, float)
    reset()
    yield
    logger = MicroMetricLogger._instance
    if hasattr(logger, "log_queue"):
        logger.log_queue.clear()
    del logger
    reset()
    gc.collect()
    MicroMetricLogger._registered_metrics.clear()
    MicroMetricLogger._registered_metrics.update(registered)


@pytest.fixture
def log(tmp_path):
    return MicroMetricLogger(str(tmp_path), enabled_metrics="all")


def read(folder):
    """The records of a log, after checking every line's form, number and checksum."""
    records = []
    for seq, line in enumerate((Path(folder) / FILE).read_bytes().split(b"\n")[:-1]):
        record = json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
        assert list(record) == KEYS
        assert record["seq"] == seq
        body, crc = re.fullmatch(rb'(.*),"crc":"([0-9a-f]{8})"\}', line).groups()
        assert int(crc, 16) == crc32c(body + b"}")
        records.append(record)
    return records


def values(folder):
    return [record["value"] for record in read(folder)]


def run_python(code, *arguments):
    """Runs code in an interpreter of its own, with the fake of _core where there is no real one."""
    prologue = f"""
import importlib, sys, types
try:
    importlib.import_module("sparse_attention_hub._core")
except ImportError:
    fake = types.ModuleType("sparse_attention_hub._core")
    sys.modules["sparse_attention_hub._core"] = fake
    exec({inspect.getsource(crc32c)!r}, vars(fake))
from sparse_attention_hub.metric_logging import MicroMetricLogger
MicroMetricLogger.register_metric("density", float)
"""
    return subprocess.run(
        [sys.executable, "-c", prologue + textwrap.dedent(code), *map(str, arguments)],
        text=True, capture_output=True, timeout=120, check=False)
