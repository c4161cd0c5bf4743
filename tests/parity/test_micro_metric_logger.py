"""Which events the metric log takes, and where they wait."""
import gc
import random
import weakref
from datetime import datetime

import pytest
import torch
from metric_log_testing import FILE, crc32c, reset, run_python, values
from metric_log_testing import core, log, new_logger  # noqa: F401
from sparse_attention_hub import metric_logging
from sparse_attention_hub.metric_logging.logger import LogEvent, MicroMetricLogger

# The checksum.

def test_crc32c(core):
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the algorithm
    assert core.crc32c(b"123456789") == 0xE3069283
    assert core.crc32c(b"") == 0


# Events.

def test_event():
    now = datetime.now()
    event = LogEvent(timestamp=now, metric="m", value=None, metadata={"a": 1}, location="here")
    assert event == LogEvent(now, "m", None, {"a": 1}, "here")
    assert metric_logging.LogEvent is LogEvent
    assert metric_logging.MicroMetricLogger is MicroMetricLogger


# Registration.

def test_registered_metrics():
    MicroMetricLogger.register_metric("count", int)
    assert MicroMetricLogger.get_registered_metrics() == {
        "density": float, "error": float, "count": int}
    MicroMetricLogger.get_registered_metrics()["more"] = int
    assert "more" not in MicroMetricLogger._registered_metrics


def test_registering_again(capsys):
    MicroMetricLogger.register_metric("density", int)
    assert capsys.readouterr().out == (
        "Warning: Metric 'density' is being re-registered (float becomes int)\n")
    assert MicroMetricLogger.get_registered_metrics()["density"] is int


def test_live_table_of_metrics():
    MicroMetricLogger._registered_metrics.clear()
    assert MicroMetricLogger.get_registered_metrics() == {}


# One logger.

def test_one_logger_a_process(tmp_path, capsys):
    first = MicroMetricLogger(log_path=str(tmp_path / "a"))
    assert MicroMetricLogger() is first
    assert MicroMetricLogger(str(tmp_path / "a")) is first
    assert capsys.readouterr().out == ""
    assert MicroMetricLogger(str(tmp_path / "b"), flush_every=3, sampling_factor=0.0) is first
    assert "Warning: MicroMetricLogger already exists" in capsys.readouterr().out
    assert first.log_path == str(tmp_path / "a")
    assert (first.flush_every, first.get_sampling_factor()) == (1000, 1.0)
    assert not (tmp_path / "b").exists()


def test_defaults():
    log = MicroMetricLogger()
    assert log.log_path is None
    assert (log.flush_every, log.flush_interval) == (1000, 60.0)
    assert log.enabled_metrics == set()
    assert len(log.log_queue) == 0
    assert log.log_queue.maxlen == 10_000
    assert log.is_logging_configured() is False
    assert log.get_max_records() is None
    assert log.get_sampling_factor() == 1.0
    assert log.dropped_events == 0


def test_arguments(tmp_path, capsys):
    log = MicroMetricLogger(
        log_path=str(tmp_path / "a/b"), flush_every=5, flush_interval=1.5,
        enabled_metrics=["density", "unknown"], max_records=7, sampling_factor=0.25)
    assert (tmp_path / "a/b").is_dir()
    assert (log.flush_every, log.flush_interval) == (5, 1.5)
    assert log.enabled_metrics == {"density"}
    assert (log.get_max_records(), log.get_sampling_factor()) == (7, 0.25)
    assert log.is_logging_configured() is True
    assert "Warning: Attempting to enable unregistered metrics: unknown" in capsys.readouterr().out


def test_a_reset_makes_a_new_logger_and_loses_nothing(tmp_path):
    first = MicroMetricLogger(str(tmp_path / "a"), enabled_metrics="all")
    first.log("density", 1)
    reset()
    second = MicroMetricLogger(str(tmp_path / "b"))
    assert second is not first
    assert second.log_path == str(tmp_path / "b")
    del first
    gc.collect()
    assert values(tmp_path / "a") == [1]


def test_a_logger_set_up_again_writes_its_events_first(tmp_path):
    log = MicroMetricLogger(str(tmp_path / "a"), enabled_metrics="all")
    log.log("density", 1)
    MicroMetricLogger._initialized = False
    assert MicroMetricLogger(str(tmp_path / "b")) is log
    assert log.log_path == str(tmp_path / "b")
    assert values(tmp_path / "a") == [1]


def test_after_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        MicroMetricLogger(str(tmp_path / "file/log"))
    assert MicroMetricLogger(str(tmp_path / "log")).log_path == str(tmp_path / "log")


# Enabling.

@pytest.mark.parametrize("metrics, enabled", [
    ("all", {"density", "error"}), (["error"], {"error"}), ({"density"}, {"density"}),
    (("density",), {"density"}), ([], set()), (None, set()), ("density", set()), (3, set())])
def test_enabling(log, metrics, enabled, capsys):
    log.enable_metrics(metrics)
    assert log.enabled_metrics == enabled
    assert log.get_enabled_metrics() == enabled
    assert log.is_metric_enabled("density") is ("density" in enabled)
    assert log.is_metric_enabled("unknown") is False
    assert capsys.readouterr().out == ""


def test_enabling_unknown_metrics(log, capsys):
    log.enable_metrics(["density", "b", "a"])
    assert log.enabled_metrics == {"density"}
    assert capsys.readouterr().out == "Warning: Attempting to enable unregistered metrics: a, b\n"


def test_enabled_metrics_are_a_copy(log):
    log.get_enabled_metrics().clear()
    assert log.get_enabled_metrics() == {"density", "error"}


def test_all_are_those_registered_by_then(log):
    MicroMetricLogger.register_metric("later", int)
    assert not log.is_metric_enabled("later")


# Taking events.

def test_an_event(log):
    before = datetime.now()
    log.log("density", 0.5, {"layer_idx": 3})
    (event,) = log.log_queue
    assert (event.metric, event.value, event.metadata) == ("density", 0.5, {"layer_idx": 3})
    assert before <= event.timestamp <= datetime.now()
    log.log("density", None)
    assert log.log_queue[1].value is None
    assert log.log_queue[1].metadata == {}
    assert log.get_total_records_logged() == 2


def test_metadata_are_copied(log):
    metadata = {"layer_idx": 1}
    log.log("density", 0.5, metadata)
    metadata["layer_idx"] = 2
    assert log.log_queue[0].metadata == {"layer_idx": 1}


def test_a_tensor_is_read_when_it_is_logged(log):
    tensor = torch.tensor([0.5], requires_grad=True)
    log.log("density", tensor)
    with torch.no_grad():
        tensor += 1
    assert log.log_queue[0].value == 0.5
    assert isinstance(log.log_queue[0].value, float)


def test_without_a_folder(capsys):
    log = MicroMetricLogger(enabled_metrics="all")
    for _ in range(3):
        log.log("density", 0.5)
    assert capsys.readouterr().out == (
        "Warning: Cannot log metric 'density' - log_path not defined\n")  # once a metric
    assert len(log.log_queue) == 0
    assert log.get_total_records_logged() == 0
    log.flush()


def test_a_metric_that_is_not_enabled(log, capsys):
    log.enable_metrics(["density"])
    for metric in ("error", "error", "unknown", "density"):
        log.log(metric, 0.5)
    assert capsys.readouterr().out == (
        "Warning: Attempting to log metric 'error' which is not enabled\n"
        "Warning: Attempting to log metric 'unknown' which is not enabled\n")
    assert [event.metric for event in log.log_queue] == ["density"]
    log.enable_metrics(["density"])  # a new choice is worth a new warning
    log.log("error", 0.5)
    assert "'error' which is not enabled" in capsys.readouterr().out


def log_from_a_function(log):
    log.log("density", 0.5)


class Caller:
    def method(self, log):
        log.log("density", 0.5)

    @staticmethod
    def static_method(log):
        log.log("density", 0.5)


def test_location(log):
    log_from_a_function(log)
    Caller().method(log)
    Caller.static_method(log)
    assert [event.location for event in log.log_queue] == [
        f"{__name__}.log_from_a_function", f"{__name__}.Caller.method", f"{__name__}.static_method"]


def test_logging_keeps_no_local_of_its_caller(log):
    class Big:
        pass

    big = Big()
    ref = weakref.ref(big)
    log.log("density", 1)
    other = big  # the locals themselves are untouched
    assert other is big
    del big, other
    assert ref() is None


def test_location_that_is_not_known(log):
    exec("log.log('density', 1)", {"log": log, "__name__": "somewhere"})
    assert log.log_queue[0].location == "somewhere.<module>"
    scope = {"log": log}
    code = compile("log.log('density', 1)", "code", "exec")
    scope["__builtins__"] = {}
    exec(code, scope)
    assert log.log_queue[1].location == "unknown"


# Limits and sampling.

def test_a_limit(tmp_path):
    log = MicroMetricLogger(str(tmp_path), enabled_metrics="all", max_records=3)
    assert (log.get_records_remaining(), log.is_max_records_reached()) == (3, False)
    for value in range(5):
        log.log("density", value)
    assert [event.value for event in log.log_queue] == [0, 1, 2]
    assert log.get_total_records_logged() == 3
    assert (log.get_records_remaining(), log.is_max_records_reached()) == (0, True)
    log.flush()
    log.log("density", 9)
    assert log.get_total_records_logged() == 3  # the limit is of the log, not of the queue


def test_no_limit(log):
    assert log.get_records_remaining() is None
    assert log.is_max_records_reached() is False


def test_a_limit_below_what_was_logged(log):
    for _ in range(3):
        log.log("density", 1)
    log.max_records = 2
    assert log.get_records_remaining() == 0


@pytest.mark.parametrize("factor, clamped", [(-1, 0.0), (0, 0.0), (0.3, 0.3), (1, 1.0), (7, 1.0)])
def test_sampling_factors(tmp_path, factor, clamped):
    log = MicroMetricLogger(str(tmp_path), sampling_factor=factor)
    assert log.get_sampling_factor() == clamped
    log.configure_logging(str(tmp_path), sampling_factor=factor / 2)
    assert log.get_sampling_factor() == max(0.0, min(1.0, factor / 2))


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("factor, taken", [(0.0, 0), (1.0, 1)])
def test_none_and_all(tmp_path, monkeypatch, draw, factor, taken):
    # The hub takes an event at factor 0 where the draw is exactly 0.
    monkeypatch.setattr(random, "random", lambda: draw)
    log = MicroMetricLogger(str(tmp_path), enabled_metrics="all", sampling_factor=factor)
    log.log("density", 1)
    assert log.get_total_records_logged() == taken
    assert len(log.log_queue) == taken


def test_a_share(tmp_path):
    log = MicroMetricLogger(
        str(tmp_path), enabled_metrics="all", sampling_factor=0.25, flush_every=10**6)
    random.seed(7)
    for _ in range(8000):
        log.log("density", 1)
    # Binomial(8000, 1/4) has a standard deviation of 38.7; 6 of them: false alarm below 1e-8.
    assert abs(log.get_total_records_logged() - 2000) < 233
    assert len(log.log_queue) == log.get_total_records_logged()


# Configuring.

def test_configuring(tmp_path):
    log = MicroMetricLogger()
    log.configure_logging(str(tmp_path / "a"), ["density"], 5, 0.5)
    assert (tmp_path / "a").is_dir()
    assert log.log_path == str(tmp_path / "a")
    assert log.enabled_metrics == {"density"}
    assert (log.get_max_records(), log.get_sampling_factor()) == (5, 0.5)


def test_configuring_again_resets_limits_and_count_and_keeps_the_queue(tmp_path):
    log = MicroMetricLogger(str(tmp_path), enabled_metrics="all", max_records=2)
    log.log("density", 1)
    log.log("density", 2)
    log.configure_logging(str(tmp_path / "b"), enabled_metrics=["error"])
    assert log.get_total_records_logged() == 0
    assert log.get_max_records() is None
    assert log.enabled_metrics == {"error"}
    assert [event.value for event in log.log_queue] == [1, 2]
    log.flush()
    assert values(tmp_path / "b") == [1, 2]
    assert not (tmp_path / FILE).exists()
