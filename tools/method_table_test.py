"""method_table.py: its configs, its interpolation and its tables, with a stand-in for sah."""
import json
import pathlib
import stat
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import method_table  # noqa: E402


def test_budgets_make_the_density():
    for row, density, pipeline in method_table.pipelines(4096, [0.05, 0.2]):
        sizes = [m["heavy_size"] for m in pipeline["maskers"] if "heavy_size" in m]
        if row == "dense":
            assert pipeline["maskers"] == []
        elif row in method_table.TOP_K:
            assert sizes == [round(density * 4096) - 64]
        elif row.startswith("v. "):
            assert sizes == [round(density * 4096 / 2) - 64]
            assert pipeline["maskers"][-1]["type"] == "adaptive_sampling"


def test_error_between_points_and_not_outside():
    points = [{"kv": 0.1, "error": 0.4}, {"kv": 0.4, "error": 0.1}]
    assert method_table.error_at(points, 0.2) == pytest.approx(0.2)
    assert method_table.error_at(points, 0.4) == pytest.approx(0.1)
    assert method_table.error_at(points, 0.05) is None
    assert method_table.error_at(points, 0.5) is None


SAH = """#!{python}
import json, pathlib, sys
args = sys.argv[1:]
value = lambda name: args[args.index(name) + 1]
configs = [args[i + 1] for i, a in enumerate(args) if a == "--config"]
out = pathlib.Path(value("--out"))
out.mkdir(parents=True, exist_ok=True)
cells = []
for config in configs:
    pipeline = json.loads(pathlib.Path(config).read_text())
    dense = pipeline["maskers"] == []
    for task in value("--tasks").split(","):
        cells.append(dict(config=pathlib.Path(config).stem, task=task, accuracy=1.0 if dense else 0.5,
                          output_error_mean=0.25, kv_bytes_fraction=0.125, density=0.0625,
                          index_bytes_fraction=0.03))
(out / "results.json").write_text(json.dumps(cells))
"""


def test_runs_every_config_and_prints_a_row_a_method(tmp_path):
    sah = tmp_path / "sah"
    sah.write_text(SAH.replace("{python}", sys.executable))
    sah.chmod(sah.stat().st_mode | stat.S_IEXEC)
    tool = pathlib.Path(__file__).resolve().parent / "method_table.py"
    run = subprocess.run([sys.executable, tool, "--sah", sah, "--out", tmp_path / "out", "--densities",
                          "5,10", "--contexts", "1024", "--jobs", "2"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "**1,024 tokens** (dense: accuracy 1.00)" in run.stdout
    for row in list(method_table.TOP_K) + ["random", "MagicPIG", "v. Quest"]:
        assert f"| {row} | 3.0% | 0.50 / 0.250 / 12% | 0.50 / 0.250 / 12% |" in run.stdout
    # In the order of the configs, whichever of the processes ends first.
    rows = [line.split("|")[1].strip() for line in run.stdout.splitlines() if "/ 0.250 /" in line]
    assert rows == [r for method in method_table.TOP_K for r in (method, "v. " + method)] + [
        "random", "MagicPIG"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary) == 1 + 2 * (2 * len(method_table.TOP_K) + 2)


def test_an_error_of_sah_is_shown(tmp_path):
    tool = pathlib.Path(__file__).resolve().parent / "method_table.py"
    run = subprocess.run([sys.executable, tool, "--sah", "false", "--out", tmp_path], text=True,
                         capture_output=True)
    assert run.returncode != 0
    assert "false evaluate" in run.stderr
