"""Writes compile_commands.json from `bazel aquery --output=jsonproto` (standard input), for clangd and clang-tidy.

usage: compile_commands.py EXECUTION_ROOT <aquery.json >compile_commands.json
"""
import json
import sys


def main():
    root = sys.argv[1]
    commands = []
    for action in json.load(sys.stdin).get("actions", []):
        arguments = action["arguments"]
        source = next((arguments[i + 1] for i, a in enumerate(arguments) if a == "-c"), None)
        # Generated and third-party sources are of no interest.
        if source is None or source.startswith(("external/", "bazel-out/")):
            continue
        # GCC's own switches that clang does not know.
        arguments = [a for a in arguments if a not in ("-fno-canonical-system-headers", "-Wno-free-nonheap-object",
                                                       "-Wunused-but-set-parameter")
                     and not a.startswith("-D__")]
        commands.append({"directory": root, "file": source, "arguments": arguments})
    json.dump(commands, sys.stdout, indent=1)


main()
