"""Counts test cases of Bazel runs from their build event files, and checks that every test target ran.

usage: count_tests.py [--cases SET,...] EXIT_CODE EXPECTED_TARGETS_FILE EVENTS.json...

Tests of kernels say how many cases ran on each instruction set; their sums are printed, and an instruction set of
--cases that has none is a failed case.
The last line printed is "N passed, N failed", with ", N skipped" after it if some were. A target that ended without a
report counts as one failed case, and so does a test target of the workspace that no run covered. Exits with 1 if
anything failed or the runs themselves did.
"""
import argparse
import collections
import json
import re
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


def count_kernel_cases(path):
    """Instruction set -> cases of the kernels' tests whose output is in `path`."""
    cases = collections.Counter()
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = re.fullmatch(r"cases on (\w+): (\d+)\n", line)
            if match:
                cases[match[1]] += int(match[2])
    return cases


def read_events(path):
    """Label -> (status, paths of its outputs by name) of the tests in a build event file."""
    results = {}
    with open(path, encoding="utf-8") as events:
        for line in events:
            event = json.loads(line)
            label = event.get("id", {}).get("testResult", {}).get("label")
            if label is None:
                continue
            result = event["testResult"]
            outputs = {output["name"]: urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
                       for output in result.get("testActionOutput", [])}
            results[label] = (result["status"], outputs)
    return results


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=lambda names: names.split(","), default=[])
    parser.add_argument("exit_code", type=int)
    parser.add_argument("expected")
    parser.add_argument("events", nargs="+")
    options = parser.parse_args(arguments)
    total = [0, 0, 0]
    seen = set()
    cases = collections.Counter()
    for path in options.events:
        for label, (status, outputs) in sorted(read_events(path).items()):
            seen.add(label)
            counts = count_report(outputs["test.xml"]) if "test.xml" in outputs else (0, 1, 0)
            if "test.log" in outputs:
                cases += count_kernel_cases(outputs["test.log"])
            if status != "PASSED" and counts[1] == 0:
                counts = (counts[0], 1, counts[2])
            if counts[1]:
                print(f"FAILED {label}: {counts[1]} of {sum(counts)} cases")
            total = [a + b for a, b in zip(total, counts)]
    with open(options.expected, encoding="utf-8") as lines:
        missing = sorted({line.strip() for line in lines if line.strip()} - seen)
    for label in missing:
        print(f"FAILED {label}: did not run")
    passed, failed, skipped = total
    # One case of its own: what ran is what there is.
    failed += len(missing)
    passed += not missing
    for name in options.cases:
        if not cases[name]:
            print(f"FAILED: no case of a kernel ran on {name}")
            failed += 1
    if options.exit_code and not failed:
        print(f"FAILED: Bazel ended with {options.exit_code}")
        failed += 1
    for name, count in sorted(cases.items()):
        print(f"cases on {name}: {count}")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
