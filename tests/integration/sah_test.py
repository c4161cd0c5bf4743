"""Runs the `sah` command as a user does, on the shipped model."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path.cwd()
SAH = ROOT / "tools/sah/sah"
MODEL = ROOT / "models/retrieval-6m"
TEXT = ROOT / "evaluation/haystack/persuasion.txt"
FULL_BUDGET = {"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": 1.0}]}
TIMES = ("ms_per_token",)


def sah(*arguments, cwd=None, env=None):
    return subprocess.run([str(SAH), *map(str, arguments)], cwd=cwd, text=True, capture_output=True,
                          env={**os.environ, **(env or {})}, timeout=280, check=False)


def evaluate(out, *more, tasks="niah_single,perplexity", configs="dense,sink_local", samples=1):
    return ["evaluate", "--model", MODEL, "--tasks", tasks, "--context", "1024", "--config", configs,
            "--samples", samples, "--dtype", "float32", "--out", out, *more]


def cells(out):
    return json.loads((Path(out) / "results.json").read_text())


def without_times(results):
    return [{k: v for k, v in cell.items() if k not in TIMES} for cell in results]


def test_version_and_help():
    assert sah("--version").stdout.startswith("sah 0.")
    help_text = sah("--help")
    assert help_text.returncode == 0
    for command in ("evaluate", "generate", "calibrate", "recall", "maskers", "doctor"):
        assert command in help_text.stdout


def test_maskers():
    listed = [line.split()[0] for line in sah("maskers", "list").stdout.splitlines()]
    assert listed[:4] == ["sink", "local", "causal", "oracle_top_k"]
    described = sah("maskers", "describe", "adaptive_sampling").stdout
    assert "epsilon" in described and "must be in (0, 1)" in described
    assert "use: Behind any top-k masker" in described and "read to choose, a step: the base sample" in described
    schema = json.loads(sah("maskers", "schema").stdout)
    assert "oracle_top_p" in json.dumps(schema)
    wrong = sah("maskers", "describe", "oracle_topk")
    assert wrong.returncode == 1 and 'did you mean "oracle_top_k"' in wrong.stderr


def test_maskers_markdown_renews_the_generated_part_of_a_document(tmp_path):
    printed = sah("maskers", "markdown").stdout
    assert printed.startswith("| masker |") and "### adaptive_sampling" in printed
    document = tmp_path / "d.md"
    document.write_text("a\n<!-- generated: sah maskers markdown -->\nold\n<!-- end -->\nb\n")
    renewed = sah("maskers", "markdown", "--into", "d.md", env={"BUILD_WORKING_DIRECTORY": str(tmp_path)})
    assert renewed.returncode == 0 and renewed.stdout == ""
    assert document.read_text() == (
        f"a\n<!-- generated: sah maskers markdown -->\n{printed}<!-- end -->\nb\n")
    document.write_text("no marks")
    refused = sah("maskers", "markdown", "--into", document)
    assert refused.returncode == 1 and f"{document}: the document must have the lines" in refused.stderr
    assert document.read_text() == "no marks"


def calibrated(out, *more):
    done = sah("calibrate", "--model", MODEL, "--text", TEXT, "--tokens", 600, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    assert "6 layers from 600 tokens" in done.stdout
    return json.loads(out.read_text())


def test_calibrate_writes_the_channels_of_every_layer(tmp_path):
    channels = calibrated(tmp_path / "group.json")
    shipped = json.loads((MODEL / "double_sparsity.json").read_text())
    assert set(channels) == set(shipped) == {f"model.layers.{layer}.self_attn.{selection}" for layer in range(6)
                                             for selection in ("q_proj", "k_proj", "qk_proj")}
    for key, heads in channels.items():
        assert [sorted(head) for head in heads] == [list(range(64))] * 8
        assert heads == heads[:1] * 4 + heads[4:5] * 4  # four query heads share a KV head
    # Another and shorter text names mostly the same channels; by chance it would be 4 of 16.
    common = [len(set(a[:16]) & set(b[:16])) for key in shipped for a, b in zip(channels[key], shipped[key])]
    assert sum(common) / len(common) > 10
    alone = calibrated(tmp_path / "alone.json", "--per-head")
    for key, heads in alone.items():
        assert (heads == channels[key]) == key.endswith(".k_proj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.json", "group.json"]


def test_recall_counts_the_keys_that_matter():
    maskers = ['{"type": "oracle_top_k", "heavy_size": 0.05}', '{"type": "sink", "sink_size": 0.05}']
    done = sah("recall", "--model", MODEL, "--text", TEXT, "--tokens", 500, "--queries", 8,
               *(argument for masker in maskers for argument in ("--masker", masker)))
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[-1]: line.split() for line in done.stdout.splitlines()[2:]}
    assert list(rows) == maskers
    assert rows[maskers[0]][0] == "1.000" and float(rows[maskers[1]][0]) < 0.9
    assert len(rows[maskers[0]][:-4]) == 2 + 6  # recall, kept, and a figure for each layer


@pytest.mark.parametrize("command, arguments, said", [
    ("calibrate", ["--text", "{empty}"], "is empty"),
    ("calibrate", ["--text", "{short}"], "tokens, --tokens asks for 4096"),
    ("calibrate", ["--text", "nowhere.txt"], "--text: cannot read nowhere.txt"),
    ("calibrate", ["--text", TEXT, "--tokens", "0"], "--tokens must be in [1, 40960], the model's"),
    ("calibrate", ["--text", TEXT, "--tokens", "64", "--out", "no/such/c.json"], "no/such/c.json: cannot write"),
    ("calibrate", ["--text", TEXT, "--model", "nowhere"], "nowhere: no such model folder"),
    ("recall", ["--text", TEXT, "--masker", '{"type": "sinc"}'], 'did you mean "sink"'),
    ("recall", ["--text", TEXT, "--masker", "{"], "--masker {: line 1"),
    ("recall", ["--text", TEXT, "--masker", '{"type": "sink", "sink_size": 1}', "--top", "2"],
     "top must be in (0, 1], got 2"),
])
def test_wrong_texts_and_maskers_are_explained(tmp_path, command, arguments, said):
    (tmp_path / "empty").write_text("")
    (tmp_path / "short").write_text("It rained.")
    arguments = [str(tmp_path / str(a)[1:-1]) if a in ("{empty}", "{short}") else a for a in arguments]
    if "--model" not in arguments:
        arguments += ["--model", MODEL]
    if command == "calibrate" and "--out" not in arguments:
        arguments += ["--out", tmp_path / "c.json"]
    done = sah(command, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "c.json").exists()


def test_doctor():
    out = sah("doctor", "--model", MODEL).stdout
    assert "6 layers, 8 query heads, 2 KV heads" in out
    assert "vattention_oracle_2" in out


def test_results_have_every_field_and_mean_something(tmp_path):
    (tmp_path / "full.json").write_text(json.dumps(FULL_BUDGET))
    done = sah(*evaluate("out", configs="dense,sink_local,full.json"), cwd="/",
               env={"BUILD_WORKING_DIRECTORY": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    results = cells(tmp_path / "out")  # relative paths are the user's
    assert len(results) == 6
    assert set(results[0]) == {
        "config", "engine", "task", "context", "samples", "accuracy", "accuracy_low", "accuracy_high", "perplexity",
        "density", "kv_bytes_fraction", "index_bytes_fraction", "oracle", "output_error_mean",
        "output_error_p95", "guarantee_unknown", "ms_per_token"}
    by = {(c["config"], c["task"]): c for c in results}
    assert by["dense", "niah_single"]["accuracy"] == 1
    assert by["dense", "niah_single"]["density"] == 1
    assert by["sink_local", "niah_single"]["density"] < 0.4
    assert by["sink_local", "niah_single"]["output_error_mean"] > 0.01
    assert by["full", "niah_single"]["oracle"] and not by["dense", "niah_single"]["oracle"]
    dense, local, full = (by[c, "perplexity"]["perplexity"] for c in ("dense", "sink_local", "full"))
    # Sparse attention is really in the path, and a full budget is dense attention.
    assert abs(local / dense - 1) > 1e-3
    assert abs(full / dense - 1) < 1e-4
    assert "sink_local" in done.stdout and "results:" in done.stdout


def test_both_engines_side_by_side(tmp_path):
    done = sah(*evaluate(tmp_path, "--engine", "research,efficient", configs="quest_5", tasks="niah_single"))
    assert done.returncode == 0, done.stderr
    research, efficient = cells(tmp_path)
    assert (research["engine"], efficient["engine"]) == ("research", "efficient")
    assert research["config"] == efficient["config"] == "quest_5"
    for name in ("accuracy", "density", "kv_bytes_fraction"):
        assert abs(research[name] - efficient[name]) < 1e-3, name
    assert abs(research["output_error_mean"] - efficient["output_error_mean"]) < 0.01
    header, first, second = (line.split() for line in done.stdout.splitlines()[1:4])
    assert header[:2] == ["config", "engine"] and header[-1] == "tokens/s"
    assert first[:2] == ["quest_5", "research"] and second[:2] == ["quest_5", "efficient"]
    wrong = sah(*evaluate(tmp_path / "x", "--engine", "research,fast"))
    assert wrong.returncode != 0 and "fast" in wrong.stderr


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    config = "random_10"
    for name in ("a", "b"):
        assert sah(*evaluate(tmp_path / name, configs=config, tasks="niah_multikey")).returncode == 0
    assert without_times(cells(tmp_path / "a")) == without_times(cells(tmp_path / "b"))
    assert sah(*evaluate(tmp_path / "c", "--seed", "7", configs=config, tasks="niah_multikey")).returncode == 0
    assert without_times(cells(tmp_path / "a")) != without_times(cells(tmp_path / "c"))


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = dict(tasks="niah_single", configs="dense,random_10", samples=4)
    assert sah(*evaluate(whole, **arguments)).returncode == 0
    journal = parts / "journal.jsonl"
    with subprocess.Popen([str(SAH), *map(str, evaluate(parts, **arguments))], stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as process:
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            if journal.exists() and journal.read_text().count("\n") >= 2:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
    kept = journal.read_text().count("\n")
    assert 2 <= kept < 8, "the run was not interrupted in its middle"
    refused = sah(*evaluate(parts, **arguments))
    assert refused.returncode == 1 and "--resume" in refused.stderr
    assert sah(*evaluate(parts, "--resume", **arguments)).returncode == 0
    assert journal.read_text().count("\n") == 8  # nothing lost, nothing twice
    assert without_times(cells(parts)) == without_times(cells(whole))


def test_generate_streams_an_answer():
    done = sah("generate", "--model", MODEL, "--context",
               "It rained. The magic number of vatobi is 481516. The sun came out.",
               "--question", "\n\nQuestion: What is the magic number of vatobi?\nAnswer: The magic number of vatobi is",
               "--config", "oracle_top_k_16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "481516"
    assert "oracle_top_k_16" in done.stderr


@pytest.mark.parametrize("arguments, said", [
    (["--config", "oracle_topk_2"], 'did you mean "oracle_top_k_2"'),
    (["--config", "{bad}"], "oracle_top_k.heavy_size must be > 0, got 0"),
    (["--config", "dense", "--tasks", "niah_singel"], 'did you mean "niah_single"'),
    (["--config", "dense", "--context", "99999999"], "max_position_embeddings"),
    (["--config", "dense", "--device", "tpu"], "device must be cpu, cuda or cuda:N"),
])
def test_wrong_input_is_explained(tmp_path, arguments, said):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": 0}]}))
    arguments = [str(bad) if a == "{bad}" else a for a in arguments]
    done = sah("evaluate", "--model", MODEL, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_missing_model_is_named(tmp_path):
    done = sah("evaluate", "--model", tmp_path / "none", "--config", "dense", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == f"sah: {tmp_path / 'none'}: no such model folder\n"
