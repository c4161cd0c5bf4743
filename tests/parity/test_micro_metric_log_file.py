"""What the metric log writes, when, and that nothing is lost without a word."""
import json
import multiprocessing
import os
import re
import sys
import threading
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from metric_log_testing import FILE, read, reset, run_python, values
from metric_log_testing import core, log, new_logger  # noqa: F401
from sparse_attention_hub.metric_logging import jsonl
from sparse_attention_hub.metric_logging.logger import MicroMetricLogger

# Writing.

def test_nothing_to_write_makes_no_file(log, tmp_path):
    log.flush()
    assert list(tmp_path.iterdir()) == []


def test_lines(log, tmp_path):
    metadata = {"layer_idx": 3, "nested": {"list": [1, 2.5, None, True]}, "text": "a \"b\"\n\u00e9"}
    log.log("density", 0.125, metadata)
    log.log("error", 3)
    first, second = list(log.log_queue)
    log.flush()
    assert len(log.log_queue) == 0
    one, two = read(tmp_path)
    assert one == {"timestamp": first.timestamp.isoformat(timespec="microseconds"),
                   "metric": "density", "value": 0.125, "metadata": metadata,
                   "location": first.location, "seq": 0, "crc": one["crc"]}
    assert datetime.fromisoformat(two["timestamp"]) == second.timestamp
    assert (two["metric"], two["value"], two["metadata"]) == ("error", 3, {})


def test_a_line_byte_for_byte():
    fields = {"timestamp": "2025-03-01T09:30:00.000125", "metric": "density", "value": 0.02,
              "metadata": {"layer_idx": 3}, "location": "m.C.f"}
    assert jsonl.encode_line(fields, 17, lambda data: 0xAB) == (
        b'{"timestamp":"2025-03-01T09:30:00.000125","metric":"density","value":0.02,'
        b'"metadata":{"layer_idx":3},"location":"m.C.f","seq":17,"crc":"000000ab"}\n')


def test_timestamps_have_microseconds_even_where_they_are_zero(log, tmp_path):
    log.log("density", 1)
    log.log_queue[0].timestamp = datetime(2025, 3, 1, 9, 30)
    log.flush()
    assert read(tmp_path)[0]["timestamp"] == "2025-03-01T09:30:00.000000"


@pytest.mark.parametrize("value, written", [
    (float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (None, None),
    (True, True), (10**30, 10**30), (0.1, 0.1), ("text", "text"), ((1, 2), [1, 2]),
    (torch.tensor(2.5), 2.5), (torch.tensor([1, 2]), [1, 2]), (torch.float16, "torch.float16"),
    (torch.tensor(float("inf")), "Infinity")])
def test_values_of_every_kind(log, tmp_path, value, written):
    log.log("density", value, {"value": value, 3: {"inner": value}})
    log.flush()
    (record,) = read(tmp_path)
    assert record["value"] == written
    assert record["metadata"] == {"value": written, "3": {"inner": written}}


def test_text_that_is_not_unicode(log, tmp_path):
    log.log("density", 1, {"text": "a\ud800b"})
    log.flush()
    assert read(tmp_path)[0]["metadata"] == {"text": "a?b"}


def test_a_file_is_continued(log, tmp_path):
    for value in range(5):
        log.log("density", value)
        log.flush()
    reset()
    again = MicroMetricLogger(str(tmp_path), enabled_metrics="all")
    again.log("density", 5, {"text": "x" * 200_000})  # longer than what is read at a time
    again.flush()
    reset()
    again = MicroMetricLogger(str(tmp_path), enabled_metrics="all")
    again.log("density", 6)
    again.flush()
    assert values(tmp_path) == list(range(7))


def test_a_file_that_was_moved_away_begins_again(log, tmp_path):
    log.log("density", 1)
    log.flush()
    (tmp_path / FILE).rename(tmp_path / "old")
    log.log("density", 2)
    log.flush()
    assert values(tmp_path) == [2]


def test_another_file_of_the_same_size_is_noticed(log, tmp_path):
    log.log("density", 1)
    log.flush()
    size = (tmp_path / FILE).stat().st_size
    (tmp_path / "new").write_bytes(b"x" * (size - 1) + b"\n")
    (tmp_path / "new").rename(tmp_path / FILE)
    log.log("density", 2)
    with pytest.warns(RuntimeWarning, match="no checksums"):
        log.flush()


def test_a_torn_line_is_removed(log, tmp_path):
    log.log("density", 1)
    log.flush()
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"timestamp":"2025')
    log.log("density", 2)
    with pytest.warns(RuntimeWarning, match=f"{FILE}: removed 18 bytes"):
        log.flush()
    assert values(tmp_path) == [1, 2]


def test_a_file_that_is_one_torn_line(log, tmp_path):
    (tmp_path / FILE).write_bytes(b'{"timestamp":"2025')
    log.log("density", 1)
    with pytest.warns(RuntimeWarning, match="removed 18 bytes"):
        log.flush()
    assert values(tmp_path) == [1]


@pytest.mark.parametrize("line", [
    '{"metric": "density", "value": NaN}', "not json", "[1]", '{"seq": "x"}'])
def test_lines_without_numbers_are_kept_and_counted(log, tmp_path, line):
    (tmp_path / FILE).write_text(f"{line}\n" * 3)
    log.log("density", 1)
    with pytest.warns(RuntimeWarning, match="no checksums"):
        log.flush()
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[:3] == [line] * 3
    assert json.loads(lines[3])["seq"] == 3


def test_two_writers_take_turns(tmp_path, log):
    other = jsonl.JsonlFile(str(tmp_path / FILE))
    fields = {"timestamp": "", "metric": "other", "value": 0, "metadata": {}, "location": ""}
    for value in range(3):
        log.log("density", value)
        log.flush()
        other.append([fields, fields])
    assert [record["metric"] for record in read(tmp_path)] == ["density", "other", "other"] * 3


def test_a_writer_that_keeps_the_file_locked(log, tmp_path, monkeypatch):
    import fcntl
    monkeypatch.setattr(jsonl, "_LOCK_SECONDS", 0.05)
    log.log("density", 1)
    with open(tmp_path / FILE, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another writer has the log open"):
            log.flush()
    assert len(log.log_queue) == 1
    log.flush()
    assert values(tmp_path) == [1]


def test_a_child_forked_during_a_write_does_not_keep_the_lock(log, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_LOCK_SECONDS", 0.05)
    write, inherited = os.write, []

    def write_and_fork(fd, data):
        inherited.append(os.dup(fd))  # what a fork does to descriptors
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_and_fork)
    for value in range(2):
        log.log("density", value)
        log.flush()
    for fd in inherited:
        os.close(fd)
    assert values(tmp_path) == [0, 1]


# When events are written.

def test_enough_events(tmp_path):
    log = MicroMetricLogger(str(tmp_path), flush_every=3, enabled_metrics="all")
    for value in range(7):
        log.log("density", value)
    assert values(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert [event.value for event in log.log_queue] == [6]


def test_enough_time(tmp_path):
    log = MicroMetricLogger(str(tmp_path), flush_interval=60.0, enabled_metrics="all")
    log.log("density", 0)
    assert not (tmp_path / FILE).exists()
    log.last_flush_time -= 61
    log.log("density", 1)
    assert values(tmp_path) == [0, 1]
    assert time.time() - log.last_flush_time < 30
    log.log("density", 2)
    assert values(tmp_path) == [0, 1]


def test_a_clock_that_was_set_back(tmp_path):
    log = MicroMetricLogger(str(tmp_path), enabled_metrics="all")
    log.last_flush_time += 3600
    log.log("density", 0)
    assert values(tmp_path) == [0]


def test_time_of_the_last_write(log):
    before = log.last_flush_time
    log.flush()
    assert log.last_flush_time == before  # nothing was written
    time.sleep(0.01)
    log.log("density", 1)
    log.flush()
    assert log.last_flush_time > before


def test_a_full_queue_drops_nothing(tmp_path):
    log = MicroMetricLogger(
        str(tmp_path), flush_every=10**9, flush_interval=1e9, enabled_metrics="all")
    for value in range(12_345):
        log.log("density", value)
    assert len(log.log_queue) == 10_000
    assert log.log_queue[0].value == 2345
    assert values(tmp_path) == list(range(2000))  # two thousands that had to leave
    log.flush()
    assert values(tmp_path) == list(range(12_345))
    assert log.dropped_events == 0
    assert log.get_total_records_logged() == 12_345


# Files that cannot be written.

def break_file(folder):
    os.makedirs(Path(folder) / FILE)  # a folder in its place


def repair_file(folder):
    os.rmdir(Path(folder) / FILE)


def test_flush_raises_and_keeps_the_events(log, tmp_path):
    break_file(tmp_path)
    log.log("density", 1)
    with pytest.raises(OSError, match=FILE):
        log.flush()
    assert len(log.log_queue) == 1
    repair_file(tmp_path)
    log.flush()
    assert values(tmp_path) == [1]


def test_logging_warns_and_tries_again_later(tmp_path):
    log = MicroMetricLogger(str(tmp_path), flush_every=3, enabled_metrics="all")
    break_file(tmp_path)
    with pytest.warns(RuntimeWarning, match="were not written and stay in memory.*Is a directory"):
        for value in range(3):
            log.log("density", value)
    with warnings.catch_warnings(record=True) as reports:
        log.log("density", 3)
        log.log("density", 4)
    assert reports == []  # no attempt an event
    repair_file(tmp_path)
    log.log("density", 5)
    assert values(tmp_path) == list(range(6))
    for value in range(6, 9):
        log.log("density", value)
    assert values(tmp_path) == list(range(9))  # and then as before


def test_what_has_no_room_is_counted_and_reported(tmp_path):
    log = MicroMetricLogger(
        str(tmp_path), flush_every=10**9, flush_interval=1e9, enabled_metrics="all")
    break_file(tmp_path)
    with pytest.warns(RuntimeWarning) as reports:
        for value in range(12_500):
            log.log("density", value)
    assert [re.search(r"^1000 metric events were dropped, (\d+) in all: .*Is a directory",
                      str(report.message)).group(1) for report in reports] == ["1000", "2000"]
    assert log.dropped_events == 2000
    repair_file(tmp_path)
    log.flush()
    assert values(tmp_path) == list(range(2000, 12_500))


def test_a_write_that_fails_half_way_leaves_no_torn_line(log, tmp_path, monkeypatch):
    log.log("density", 1)
    log.flush()
    log.log("density", 2)
    write = os.write
    parts = []

    def write_a_little(fd, data):
        if parts:
            raise OSError(28, "No space left on device")
        parts.append(write(fd, data[:10]))
        return parts[0]

    monkeypatch.setattr(os, "write", write_a_little)
    with pytest.raises(OSError, match="No space left on device.*micro_metrics"):
        log.flush()
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))  # short, but going on
    assert values(tmp_path) == [1]
    assert (tmp_path / FILE).read_bytes().endswith(b"}\n")
    log.flush()
    assert values(tmp_path) == [1, 2]


def test_without_the_compiled_module(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sparse_attention_hub._core", None)
    log.log("density", 1)
    with pytest.raises(RuntimeError, match="needs the compiled module sparse_attention_hub._core"):
        log.flush()
    assert len(log.log_queue) == 1
    assert not (tmp_path / FILE).exists()


# The end.

def test_a_destructor_writes(log, tmp_path):
    log.log("density", 1)
    log.__del__()
    assert values(tmp_path) == [1]


def test_a_destructor_raises_nothing(log, tmp_path, capsys):
    break_file(tmp_path)
    log.log("density", 1)
    with pytest.warns(RuntimeWarning, match="were not written"):
        log.__del__()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where warnings are errors it goes to stderr
        log.__del__()
    assert "were not written" in capsys.readouterr().err
    log.log_queue.clear()
    MicroMetricLogger.__new__(MicroMetricLogger).__del__()  # one that was never set up


def test_leaving_the_interpreter_writes_and_is_silent(tmp_path):
    result = run_python("""
        log = MicroMetricLogger(sys.argv[1], enabled_metrics="all")
        log.log("density", 0.5)
    """, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert values(tmp_path) == [0.5]


def test_leaving_the_interpreter_without_a_file_says_so(tmp_path):
    break_file(tmp_path)
    result = run_python("""
        log = MicroMetricLogger(sys.argv[1], enabled_metrics="all")
        log.log("density", 0.5)
    """, tmp_path)
    assert result.returncode == 0
    assert "RuntimeWarning: metric events were not written" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


# Threads and forks.

def test_threads(tmp_path):
    log = MicroMetricLogger(str(tmp_path), flush_every=50, enabled_metrics="all")
    barrier = threading.Barrier(8)

    def work(thread):
        barrier.wait()
        for i in range(200):
            log.log("density", thread * 1000 + i)
            if i % 70 == 0:
                log.flush()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()
    written = values(tmp_path)
    assert sorted(written) == [n * 1000 + i for n in range(8) for i in range(200)]
    for n in range(8):  # in order within a thread
        assert [v for v in written if v // 1000 == n] == [n * 1000 + i for i in range(200)]
    assert log.get_total_records_logged() == 1600


def test_a_forked_child_does_not_write_its_parents_events(tmp_path):
    result = run_python("""
        import os
        log = MicroMetricLogger(sys.argv[1], enabled_metrics="all")
        log.log("density", 1)
        child = os.fork()
        log.log("density", 2 if child else 3)
        if not child:
            log.flush()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        log.flush()
    """, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert values(tmp_path) == [3, 1, 2]


def test_a_fork_while_another_thread_logs(tmp_path):
    result = run_python("""
        import os, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        log = MicroMetricLogger(sys.argv[1], enabled_metrics="all", flush_every=10)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                log.log("density", 0)
                time.sleep(1e-4)

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(20):
            child = os.fork()
            if not child:
                log.log("density", 1)
                log.flush()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        thread.join()
        log.flush()
        print(log.get_total_records_logged())
    """, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    written = values(tmp_path)
    assert written.count(1) == 20
    assert written.count(0) == int(result.stdout)


def worker(value):
    MicroMetricLogger().log("density", value)


def test_workers_write_when_they_end(log, tmp_path):
    log.log("density", 0)
    context = multiprocessing.get_context("fork")
    for value in (1, 2):
        process = context.Process(target=worker, args=(value,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    log.flush()
    assert values(tmp_path) == [1, 2, 0]


def test_old_events_keep_their_time(log, tmp_path):
    log.log("density", 1)
    log.log_queue[0].timestamp -= timedelta(days=1)
    log.flush()
    age = datetime.now() - datetime.fromisoformat(read(tmp_path)[0]["timestamp"])
    assert age > timedelta(hours=23)
