"""The Python that README.md and docs/python.md show is run as it stands there."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import pytest
import torch
import transformers

import sparse_attention_hub as sah

MODEL = "models/retrieval-6m"
BLOCKS = [
    (path, number, block)
    for path in ("README.md", "docs/python.md")
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", pathlib.Path(path).read_text(), re.M | re.S))
]


@pytest.fixture
def names() -> dict[str, Any]:
    """What the text takes for granted."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = pathlib.Path("evaluation/haystack/persuasion.txt").read_text(encoding="utf-8")[:4000]
    return {
        "model": transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        "inputs": tokenizer(text, return_tensors="pt"),
        "text": text,
        "torch": torch,
        "dataclass": dataclasses.dataclass,
        "Mask": sah.Mask,
        "MaskerConfig": sah.MaskerConfig,
        "MaskerRegistry": sah.MaskerRegistry,
        "ResearchMasker": sah.ResearchMasker,
    }


def test_there_are_blocks() -> None:
    assert [(path, number) for path, number, _ in BLOCKS] == [
        ("README.md", 0), ("docs/python.md", 0), ("docs/python.md", 1), ("docs/python.md", 2), ("docs/python.md", 3)
    ]  # fmt: skip


@pytest.mark.parametrize(("path", "number", "block"), BLOCKS)
def test_a_block_runs(
    path: str, number: int, block: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(block, f"{path}, block {number}", "exec", dont_inherit=True), names)
    if (path, number) == ("docs/python.md", 0):
        assert "sparse" in capsys.readouterr().out
    if (path, number) == ("docs/python.md", 1):
        assert len(names["response"].responses) == 2
    if (path, number) == ("docs/python.md", 2):
        config = sah.ResearchAttentionConfig([sah.SinkMaskerConfig(4), names["EveryNthConfig"](n=8)])
        attention = sah.ResearchAttention.create_from_config(config)
        q, k = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 64, 8)
        mask = attention.build_mask(q, k, k, None, 1.0, 0.0, sparse_meta_data={}, layer_idx=0)
        assert mask.get_dense_mask()[0, 0, 0].nonzero().flatten().tolist() == [0, 1, 2, 3, *range(8, 64, 8)]
        sah.MaskerRegistry._registry.pop(names["EveryNthConfig"])
    if (path, number) == ("docs/python.md", 3):
        assert names["out"].shape == (2, 8, 1, 64) and names["lse"].isfinite().all()
