"""The example runs, its first layer is dense and the others are not, and a broken pipeline is refused by name."""

import json
import os
import subprocess

BINARY, PIPELINE = os.environ["SA_EMBED_HOST"], os.environ["SA_EMBED_HOST_PIPELINE"]


def run(path):
    return subprocess.run([BINARY, path], capture_output=True, text=True)


def table(output):
    """layer -> (keys attended, KV rows read, output error)"""
    rows = output.split("output error\n")[1].splitlines()
    return {int(layer): (float(keys.rstrip("%")), float(kv.rstrip("%")), float(error))
            for layer, keys, kv, error in (row.split() for row in rows)}


def test_prints_what_each_layer_read():
    result = run(PIPELINE)
    assert result.returncode == 0, result.stderr
    rows = table(result.stdout)
    assert rows.pop(0) == (100, 100, 0)
    assert sorted(rows) == [1, 2, 3]
    for keys, kv, error in rows.values():
        assert 5 < keys < 10 and keys < kv < 40 and 0.0001 < error < 0.5


def test_a_full_budget_gives_the_dense_tokens(tmp_path):
    path = tmp_path / "full.json"
    path.write_text(json.dumps({"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": 1.0}]}))
    result = run(path)
    assert result.returncode == 0, result.stderr
    tokens = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()[1:3]}
    assert tokens["dense"] == tokens["sparse"]
    assert all(error < 1e-5 for _, _, error in table(result.stdout).values())


def test_a_broken_pipeline_is_refused(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"type": "research", "maskers": [{"type": "sink", "size": 4}]}')
    result = run(path)
    assert result.returncode == 1
    assert "pipeline.maskers[0]" in result.stderr and "size" in result.stderr
