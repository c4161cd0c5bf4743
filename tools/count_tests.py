"""Counts test cases of Bazel runs from their build event files, and checks that every test target ran.

usage: count_tests.py EXIT_CODE EXPECTED_TARGETS_FILE EVENTS.json...

The last line printed is "N passed, N failed", with ", N skipped" after it if some were. A target that ended without a
report counts as one failed case, and so does a test target of the workspace that no run covered. Exits with 1 if
anything failed or the runs themselves did.
"""
import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree


def count_report(path):
    """(passed, failed, skipped) of a JUnit file; a file that cannot be read is one failed case."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("result") in ("skipped", "suppressed"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def read_events(path):
    """Label -> (status, path of its report or None) of the tests in a build event file."""
    results = {}
    with open(path, encoding="utf-8") as events:
        for line in events:
            event = json.loads(line)
            label = event.get("id", {}).get("testResult", {}).get("label")
            if label is None:
                continue
            result = event["testResult"]
            report = next((urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
                           for output in result.get("testActionOutput", [])
                           if output["name"] == "test.xml"), None)
            results[label] = (result["status"], report)
    return results


def main(arguments):
    exit_code, expected_path, event_paths = int(arguments[0]), arguments[1], arguments[2:]
    total = [0, 0, 0]
    seen = set()
    for path in event_paths:
        for label, (status, report) in sorted(read_events(path).items()):
            seen.add(label)
            counts = count_report(report) if report else (0, 1, 0)
            if status != "PASSED" and counts[1] == 0:
                counts = (counts[0], 1, counts[2])
            if counts[1]:
                print(f"FAILED {label}: {counts[1]} of {sum(counts)} cases")
            total = [a + b for a, b in zip(total, counts)]
    with open(expected_path, encoding="utf-8") as lines:
        missing = sorted({line.strip() for line in lines if line.strip()} - seen)
    for label in missing:
        print(f"FAILED {label}: did not run")
    passed, failed, skipped = total
    # One case of its own: what ran is what there is.
    failed += len(missing)
    passed += not missing
    if exit_code and not failed:
        print(f"FAILED: Bazel ended with {exit_code}")
        failed += 1
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
