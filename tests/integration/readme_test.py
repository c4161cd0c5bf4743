"""Every command of the README works: `sah` commands are run, the commands of tools/dev exist."""
import os
import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path.cwd()
SAH = "bazel run //tools/sah -- "


def commands():
    """Lines of the README's blocks without a language."""
    found, inside, plain = [], False, False
    for line in Path("README.md").read_text().splitlines():
        if line.startswith("```"):
            inside, plain = not inside, line == "```" and not inside
        elif inside and plain:
            found.append(line)
    return found


def test_the_readme_has_the_commands_that_this_test_runs():
    assert sum(c.startswith(SAH) for c in commands()) >= 3
    assert [c for c in commands() if not c.startswith((SAH, "./tools/dev "))] == []


def test_commands_of_tools_dev_exist():
    usage = subprocess.run(["tools/dev", "help"], text=True, capture_output=True, check=True).stdout
    for command in commands():
        if command.startswith("./tools/dev "):
            assert re.search(rf"^  {shlex.split(command)[1]}\b", usage, re.MULTILINE), command


def test_sah_commands_run(tmp_path):
    os.symlink(ROOT / "models", tmp_path / "models")
    for command in commands():
        if not command.startswith(SAH):
            continue
        done = subprocess.run([ROOT / "tools/sah/sah", *shlex.split(command[len(SAH):])], text=True,
                              capture_output=True, timeout=250, check=False,
                              env={**os.environ, "BUILD_WORKING_DIRECTORY": str(tmp_path)})
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "results/first/results.json").exists()


def test_the_five_lines_run():
    done = subprocess.run([ROOT / "examples/five_lines/five_lines", "configs/oracle_top_k_2.json"], text=True,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "attended: [1, 8, 1, 64]\n"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", Path("README.md").read_text()):
        assert (ROOT / target).exists(), target
