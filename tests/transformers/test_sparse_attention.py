"""Sparse pipelines against an attention in float64 that the tests compute themselves."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from decoding import SPARSE, new_cache, read
from tiny_models import DECODERS, Recorder, tiny_model, tokens
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from sparse_attention_hub import _core
from sparse_attention_hub.transformers import sparse

PROMPT = 20


def kept_of(position: int, visible: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """What SPARSE keeps for one query: the first 2 keys, the last 3, and the 2 best of the others that are visible."""
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    kept[:, :2] = True
    kept[:, position - 2 : position + 1] = True
    for h in range(len(logits)):
        others = (visible & ~kept[h]).nonzero()[:, 0]
        kept[h, others[logits[h, others].argsort(descending=True)[:2]]] = True
    return kept


def sink_local_top(layer: int, position: int, visible: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """SPARSE after a dense prompt."""
    return torch.ones(logits.shape, dtype=torch.bool) if position < PROMPT else kept_of(position, visible, logits)


def oracle_logits(model: Any, keep: Callable[..., torch.Tensor], ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """Logits of `model` whose attention is the tests' own."""
    AttentionInterface.register("float64_oracle", Recorder(keep))
    AttentionMaskInterface.register("float64_oracle", eager_mask)
    model.config._attn_implementation = "float64_oracle"
    try:
        return read(model, ids, first=PROMPT, **options)
    finally:
        model.config._attn_implementation = "eager"


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_equals_the_oracle(name: str) -> None:
    model = tiny_model(name)
    ids = tokens(2, PROMPT + 6)
    expected = oracle_logits(model, sink_local_top, ids)
    dense = read(model, ids, first=PROMPT)
    with sparse(model, SPARSE):
        actual = read(model, ids, first=PROMPT)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (actual - dense)[:, :PROMPT].abs().max() < 1e-3
    assert (actual - dense)[:, PROMPT:].abs().max() > 1e-2, "the pipeline changed nothing"


def test_layers_and_heads_have_pipelines_of_their_own() -> None:
    def keep(layer: int, position: int, visible: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        kept = torch.ones(logits.shape, dtype=torch.bool)
        if layer == 1 and position >= PROMPT:
            kept[:2] = sink_local_top(layer, position, visible, logits)[:2]
        return kept

    config = {"type": "research", "layers": [{"layers": "1", "heads": "0-1", "maskers": SPARSE["maskers"]}]}
    model = tiny_model("llama")
    ids = tokens(2, PROMPT + 6)
    expected = oracle_logits(model, keep, ids)
    with sparse(model, config) as handle:
        actual = read(model, ids, first=PROMPT)
        assert handle.summary().sparse == (1,) and handle.summary().dense == (0, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (actual - read(model, ids, first=PROMPT)).abs().max() > 1e-2


RANDOM = {
    "type": "research",
    "seed": 3,
    "maskers": [
        {"type": "sink", "sink_size": 2},
        {"type": "local", "window_size": 2},
        {"type": "random_sampling", "sampling_rate": 0.3},
    ],
}
QUEST = {"type": "research", "maskers": [{"type": "quest_top_k", "heavy_size": 12, "page_size": 4}]}
SOCKET = {"type": "research", "maskers": [{"type": "socket_top_k", "heavy_size": 6, "K": 4, "L": 4, "tau": 0.3}]}


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("pipeline", [SPARSE, RANDOM, QUEST, SOCKET], ids=["top_k", "random", "quest", "socket"])
def test_a_row_does_not_depend_on_its_batch(pipeline: dict[str, Any], cache: str) -> None:
    model = tiny_model("llama")
    ids = tokens(4, 34)
    mask = torch.ones_like(ids)
    paddings = [0, 5, 5, 12]
    for row, padding in enumerate(paddings):
        mask[row, :padding] = 0
    with sparse(model, pipeline):
        batched = read(model, ids, first=28, cache=cache, mask=mask)
    dense = read(model, ids, first=28, cache=cache, mask=mask)
    assert (batched - dense)[mask.bool()].abs().max() > 1e-2, "the pipeline changed nothing"
    for row, padding in enumerate(paddings):
        with sparse(model, pipeline):
            alone = read(model, ids[row : row + 1, padding:], first=28 - padding, cache=cache)
        torch.testing.assert_close(batched[row, padding:], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pipeline", [RANDOM, QUEST, SOCKET], ids=["random", "quest", "socket"])
def test_static_cache_equals_dynamic_cache(pipeline: dict[str, Any]) -> None:
    model = tiny_model("llama")
    ids = tokens(2, 34)
    with sparse(model, pipeline):
        dynamic = read(model, ids, first=28, cache="dynamic")
        static = read(model, ids, first=28, cache="static")
    torch.testing.assert_close(static, dynamic, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss"])
def test_a_sliding_cache_is_the_sequence_of_its_layer(name: str) -> None:
    """Where a cache keeps a window alone, sinks and windows are those of the keys in the cache."""
    model = tiny_model(name)
    ids = tokens(2, PROMPT + 6)
    steps: dict[int, int] = {}

    def keep(layer: int, position: int, visible: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        steps[layer] = steps.get(layer, 0) + 1
        if steps[layer] <= len(ids) * PROMPT:  # the queries of the prompt
            return torch.ones(logits.shape, dtype=torch.bool)
        return kept_of(logits.shape[1] - 1, visible, logits)

    expected = oracle_logits(model, keep, ids, cache="sliding")
    with sparse(model, SPARSE):
        actual = read(model, ids, first=PROMPT, cache="sliding")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    dense = read(model, ids, first=PROMPT, cache="sliding")
    assert (actual - dense).abs().max() > 1e-2, "the pipeline changed nothing"


def test_a_second_turn_goes_on_and_a_second_sequence_begins_anew() -> None:
    model = tiny_model("llama")
    first, second = tokens(1, 40, seed=1), tokens(1, 40, seed=2)
    with sparse(model, QUEST) as handle:
        fresh = read(model, second, first=30)
        handle.reset()
        read(model, first, first=30)
        after = read(model, second, first=30)
        assert torch.equal(after, fresh)
        # A prompt, an answer, another question of several tokens, another answer: the indexes grow with the cache.
        cache = new_cache("dynamic", model, 1, 40)
        with torch.no_grad():
            for a, b in [(0, 20), (20, 21), (21, 22), (22, 35), (35, 36)]:
                turns = model(input_ids=first[:, a:b], past_key_values=cache).logits
        handle.reset()
        other = new_cache("dynamic", model, 1, 40)
        with torch.no_grad():
            for a, b in [(0, 20), (20, 21), (21, 22), (22, 35), (35, 36)]:
                again = model(input_ids=first[:, a:b], past_key_values=other).logits
        assert torch.equal(turns, again)


def test_two_caches_may_take_turns() -> None:
    model = tiny_model("llama")
    ids = [tokens(1, 34, seed=1), tokens(1, 34, seed=2)]
    with sparse(model, SPARSE):
        alone = [read(model, x, first=28) for x in ids]
        caches = [new_cache("dynamic", model, 1, 34) for _ in ids]
        together: list[list[torch.Tensor]] = [[], []]
        with torch.no_grad():
            for a, b in [(0, 28), *((i, i + 1) for i in range(28, 34))]:
                for which in (0, 1):
                    out = model(input_ids=ids[which][:, a:b], past_key_values=caches[which])
                    together[which].append(out.logits)
    for which in (0, 1):
        torch.testing.assert_close(torch.cat(together[which], 1), alone[which], rtol=1e-5, atol=1e-5)


def test_a_reordered_cache_is_noticed() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 34)
    order = torch.tensor([1, 0])
    with sparse(model, QUEST), torch.no_grad():
        straight = read(model, ids, first=28)
        cache = new_cache("dynamic", model, 2, 34)
        model(input_ids=ids[:, :28], past_key_values=cache)
        for at in range(28, 31):
            model(input_ids=ids[:, at : at + 1], past_key_values=cache)
        cache.reorder_cache(order)
        swapped = [model(input_ids=ids[order, at : at + 1], past_key_values=cache).logits for at in range(31, 34)]
    torch.testing.assert_close(torch.cat(swapped, 1), straight[order, 31:], rtol=1e-4, atol=1e-4)


def test_a_cache_read_without_us_is_indexed_before_the_first_question() -> None:
    model = tiny_model("llama")
    ids = tokens(1, 34)
    with sparse(model, QUEST):
        within = read(model, ids, first=28)
    with torch.no_grad():
        cache = new_cache("dynamic", model, 1, 34)
        model(input_ids=ids[:, :28], past_key_values=cache)
        with sparse(model, QUEST):
            later = [model(input_ids=ids[:, at : at + 1], past_key_values=cache).logits for at in range(28, 34)]
    torch.testing.assert_close(torch.cat(later, 1), within[:, 28:], rtol=1e-5, atol=1e-5)


def test_a_sparse_prompt_is_read_in_passes() -> None:
    """Longer than one pass: equal to the engine called with the same passes."""
    model = tiny_model("llama")
    ids = tokens(1, 300)
    with sparse(model, SPARSE, prefill="sparse"), torch.no_grad():
        actual = model(input_ids=ids).logits
    dense = model(input_ids=ids).logits.detach()
    assert (actual - dense).abs().max() > 1e-2
    host = _core.HostAttention(_core.read_pipeline(__import__("json").dumps(SPARSE), ""))

    def passes(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scaling: float, **_: Any) -> Any:
        sequence = _core.Sequence(host)
        outs = [
            torch.ops.sparse_attention_hub.attend(
                sequence.handle, q[:, :, a:b], k[:, :, :b], v[:, :, :b], None, None, scaling, None, None, True,
                module.layer_idx, a,
            )
            for a, b in [(0, 256), (256, 300)]
        ]  # fmt: skip
        return torch.cat(outs, 2).transpose(1, 2).contiguous(), None

    AttentionInterface.register("passes_oracle", passes)
    model.config._attn_implementation = "passes_oracle"
    with torch.no_grad():
        torch.testing.assert_close(actual, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_metrics_go_to_the_sink() -> None:
    model = tiny_model("llama")
    sink = _core.MemorySink()
    with sparse(model, SPARSE, metrics=sink) as handle:
        read(model, tokens(1, 34), first=30)
        assert handle.metrics is sink
    densities = [r for r in sink.records() if r["metric"] == "research_attention_density"]
    assert len(densities) == 3 * 4, "one for each layer and decoding step"
    assert all(0 < r["value"] < 0.5 for r in densities)
    assert sink.mean("research_attention_output_error") > 0


def test_metrics_go_to_a_file(tmp_path: Any) -> None:
    model = tiny_model("llama")
    path = tmp_path / "metrics.jsonl"
    with sparse(model, SPARSE, metrics=path):
        read(model, tokens(1, 34), first=30)
    assert any(r["metric"] == "research_attention_density" for r in _core.read_metric_log(str(path)))
