"""The package's types: mypy over all of it, and over what users write."""

from __future__ import annotations

import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path("python/sparse_attention_hub")

USER = """
import torch
import sparse_attention_hub as sah
from sparse_attention_hub import ops

config = sah.ResearchAttentionConfig([sah.SinkMaskerConfig(4), sah.OracleTopKConfig(heavy_size=0.05)], selection="kv_group")
attention: sah.ResearchAttention = sah.ResearchAttention.create_from_config(config)
mask: sah.Mask = sah.Mask.create_empty_mask((1, 1, 1, 8), torch.float32, torch.device("cpu"))
density: float = mask.get_density()
request = sah.Request(context="c", questions=["q"])
q, k = torch.zeros(1, 4, 1, 8), torch.zeros(1, 2, 9, 8)
indices: torch.Tensor = ops.exact_top_k(torch.zeros(1, 2, 9), 3)
state: tuple[torch.Tensor, torch.Tensor] = ops.efficient_decode(q, k, k, indices, scale=0.5)
out, lse = ops.merge_attention_states(*state, *state)
"""
MISTAKES = """
import sparse_attention_hub as sah
from sparse_attention_hub import ops

sah.SinkMaskerConfig(sink_sice=4)
sah.OracleTopKConfig("many")
density: str = sah.MicroMetricLogger().get_sampling_factor()
sah.no_such_name
ops.exact_top_k("scores", 2)
"""


def mypy(cache: pathlib.Path, *paths: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(cache), *map(str, paths)],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(PACKAGE.parent.resolve()), "PATH": "/usr/bin"},
    )


def test_the_package_and_its_use(tmp_path: pathlib.Path) -> None:
    user, mistakes = tmp_path / "user.py", tmp_path / "mistakes.py"
    user.write_text(USER)
    mistakes.write_text(MISTAKES)
    done = mypy(tmp_path / "cache", PACKAGE, user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split("in ")[1].split()[0]) > 60  # files
    done = mypy(tmp_path / "cache", mistakes)
    wrong = sorted(int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line)
    assert wrong == [5, 6, 7, 8, 9], done.stdout
