"""The efficient engine generates what the research engine does, in models of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import sparse_attention_hub as sah
import torch
from tiny_models import tiny_model, tokens

PIPELINES: dict[str, list[dict[str, Any]]] = {
    "dense": [],
    "quest": [
        {"type": "sink", "sink_size": 4},
        {"type": "local", "window_size": 8},
        {"type": "quest_top_k", "heavy_size": 24, "page_size": 8},
    ],
    "magic_pig": [
        {"type": "sink", "sink_size": 4},
        {"type": "local", "window_size": 8},
        {"type": "magic_pig", "lsh_l": 12, "lsh_k": 4},
    ],
    "snap_kv": [{"type": "snap_kv", "heavy_size": 24, "window_size": 8}],
    "vattention": [
        {"type": "sink", "sink_size": 4},
        {"type": "local", "window_size": 8},
        {"type": "oracle_top_k", "heavy_size": 0.1},
        {
            "type": "adaptive_sampling",
            "base_rate_sampling": 0.1,
            "epsilon": 0.2,
            "delta": 0.2,
            "init_offset": 4,
            "local_offset": 4,
        },
    ],
}


def generated(model: Any, engine: str, maskers: list[dict[str, Any]], **inputs: Any) -> torch.Tensor:
    with torch.no_grad(), sah.sparse(model, {"type": engine, "maskers": maskers}):
        out: torch.Tensor = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    return out


# Grouped heads; a softcap and windows; learned sinks.
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_generates_the_same_tokens(name: str, pipeline: str) -> None:
    model = tiny_model(name)
    prompt = tokens(1, 150)
    expected = generated(model, "research", PIPELINES[pipeline], input_ids=prompt)
    assert generated(model, "efficient", PIPELINES[pipeline], input_ids=prompt).equal(expected)


def test_left_padding() -> None:
    model = tiny_model("llama")
    prompt = tokens(2, 150)
    mask = torch.ones_like(prompt)
    mask[1, :37] = 0
    inputs = {"input_ids": prompt, "attention_mask": mask}
    expected = generated(model, "research", PIPELINES["quest"], **inputs)
    assert generated(model, "efficient", PIPELINES["quest"], **inputs).equal(expected)


def test_hash_attention_of_the_hub_is_its_pipeline() -> None:
    model = tiny_model("llama")
    prompt = tokens(3, 150)
    generator = torch.Generator().manual_seed(4)
    layer = lambda: {  # noqa: E731
        f"{side}_{kind}": [torch.randn(*((4, 8, 24) if kind == "matrix" else (4, 24)), generator=generator)]
        for side in ("query", "key")
        for kind in ("matrix", "bias")
    }
    weights = {number: layer() for number in range(3)}
    config = sah.HashAttentionConfig(12, 4, 8, weights, 24, 1, 0)
    masker = sah.HashAttentionTopKMaskerConfig(12, 24, 1, 0, "silu", hat_weights=weights)
    research = sah.ResearchAttentionConfig([sah.SinkMaskerConfig(4), sah.LocalMaskerConfig(8), masker])
    outs = []
    for pipeline in (research, config):
        with torch.no_grad(), sah.sparse(model, pipeline) as handle:
            outs.append(model.generate(input_ids=prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False))
    assert outs[1].equal(outs[0])
    assert '"efficient"' in handle.pipeline and '"hash_attention_top_k"' in handle.pipeline


def test_what_is_not_supported_is_refused_with_its_path() -> None:
    masker = {"type": "random_sampling", "sampling_rate": 0.1, "estimator": "hub"}
    reason = r'pipeline.maskers\[0\]: the efficient engine does not support random_sampling.estimator "hub"'
    with pytest.raises(NotImplementedError, match=reason):
        with sah.sparse(tiny_model("llama"), {"type": "efficient", "maskers": [masker]}):
            pass
