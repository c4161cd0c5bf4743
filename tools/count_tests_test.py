"""Tests of count_tests.py on build event files made by hand."""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import count_tests  # noqa: E402

REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure/></testcase>
<testcase name="c" result="skipped"><skipped/></testcase><testcase name="d"/>
</testsuite></testsuites>"""
GREEN = "<testsuites><testsuite><testcase name='a'/><testcase name='b'/></testsuite></testsuites>"


def event(label, status, report, log=None):
    outputs = [{"name": "test.xml", "uri": f"file://{report}"}] if report else []
    outputs += [{"name": "test.log", "uri": f"file://{log}"}] if log else []
    return json.dumps({"id": {"testResult": {"label": label}},
                       "testResult": {"status": status, "testActionOutput": outputs}})


def run(tmp_path, events, expected, exit_code, capsys, options=()):
    (tmp_path / "events.json").write_text("\n".join(['{"id": {}}'] + events) + "\n")
    (tmp_path / "expected").write_text("\n".join(expected) + "\n")
    code = count_tests.main([*options, str(exit_code), str(tmp_path / "expected"), str(tmp_path / "events.json")])
    return code, capsys.readouterr().out.strip().split("\n")


def report(tmp_path, text):
    path = tmp_path / "test report.xml"
    path.write_text(text)
    return str(path).replace(" ", "%20")


def test_counts_cases_not_targets(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "FAILED", report(tmp_path, REPORT))], ["//a:t"], 3, capsys)
    assert code == 1
    assert lines == ["FAILED //a:t: 1 of 4 cases", "3 passed, 1 failed, 1 skipped"]


def test_all_green(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "PASSED", report(tmp_path, GREEN))], ["//a:t"], 0, capsys)
    assert (code, lines) == (0, ["3 passed, 0 failed"])


def test_a_target_that_did_not_run_is_a_failure(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "PASSED", report(tmp_path, GREEN))], ["//a:t", "//b:u"], 0, capsys)
    assert code == 1
    assert lines == ["FAILED //b:u: did not run", "2 passed, 1 failed"]


def test_a_crash_without_a_report_is_a_failure(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "FAILED", None)], ["//a:t"], 3, capsys)
    assert code == 1
    assert lines[-1] == "1 passed, 1 failed"


def test_a_timeout_after_green_cases_is_a_failure(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "TIMEOUT", report(tmp_path, GREEN))], ["//a:t"], 3, capsys)
    assert code == 1
    assert lines[-1] == "3 passed, 1 failed"


def test_a_build_that_failed_is_a_failure(tmp_path, capsys):
    code, lines = run(tmp_path, [event("//a:t", "PASSED", report(tmp_path, GREEN))], ["//a:t"], 1, capsys)
    assert code == 1
    assert lines[-1] == "3 passed, 1 failed"


def test_cases_of_instruction_sets_are_summed(tmp_path, capsys):
    green = report(tmp_path, GREEN)
    (tmp_path / "a.log").write_text("[ RUN ]\ncases on generic: 4\ncases on neon: 3\n[ OK ] cases on avx2: 9\n")
    (tmp_path / "b.log").write_text("cases on neon: 39\n")
    events = [event("//a:t", "PASSED", green, tmp_path / "a.log"), event("//b:t", "PASSED", green, tmp_path / "b.log")]
    code, lines = run(tmp_path, events, ["//a:t", "//b:t"], 0, capsys, ["--cases", "generic,neon"])
    assert (code, lines) == (0, ["cases on generic: 4", "cases on neon: 42", "5 passed, 0 failed"])


def test_an_instruction_set_without_cases_is_a_failure(tmp_path, capsys):
    (tmp_path / "a.log").write_text("cases on generic: 4\ncases on neon: 0\n")
    events = [event("//a:t", "PASSED", report(tmp_path, GREEN), tmp_path / "a.log")]
    code, lines = run(tmp_path, events, ["//a:t"], 0, capsys, ["--cases", "generic,neon"])
    assert code == 1
    assert lines == ["FAILED: no case of a kernel ran on neon", "cases on generic: 4", "3 passed, 1 failed"]
