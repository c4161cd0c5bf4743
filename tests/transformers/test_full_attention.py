"""A pipeline that keeps every key gives the logits of eager attention: models, caches, padding, versions."""

from __future__ import annotations

import pytest
import torch
import transformers
from decoding import COVERING, SHORT, new_cache, read
from tiny_models import CONFIGS, DECODERS, HYBRIDS, tiny_model, tokens

from sparse_attention_hub.transformers import sparse

PIPELINES = {"empty": SHORT, "covering": COVERING}


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.abs().max() > 0.5, "the logits are too small to tell anything"
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefill", ["dense", "sparse"])
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_decode(name: str, pipeline: str, prefill: str) -> None:
    model = tiny_model(name)
    ids = tokens(2, 26)
    cache = "hybrid" if name in HYBRIDS else "dynamic"
    expected = read(model, ids, first=20, cache=cache)
    with sparse(model, PIPELINES[pipeline], prefill=prefill):
        close(read(model, ids, first=20, cache=cache), expected)


@pytest.mark.parametrize("cache", ["none", "dynamic", "sliding", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_caches(name: str, cache: str) -> None:
    model = tiny_model(name)
    ids = tokens(1, 24)
    expected = read(model, ids, first=15, cache=cache)
    with sparse(model, COVERING):
        close(read(model, ids, first=15, cache=cache), expected)


@pytest.mark.parametrize("cache", ["none", "dynamic", "sliding", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_left_padding(name: str, cache: str) -> None:
    model = tiny_model(name)
    ids = tokens(4, 24)
    mask = torch.ones_like(ids)
    for row, padding in enumerate([0, 5, 5, 12]):
        mask[row, :padding] = 0
    expected = read(model, ids, first=15, cache=cache, mask=mask)
    with sparse(model, COVERING):
        actual = read(model, ids, first=15, cache=cache, mask=mask)
    close(actual[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("name", HYBRIDS)
def test_left_padding_of_hybrids(name: str) -> None:
    model = tiny_model(name)
    ids = tokens(3, 24)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    expected = read(model, ids, first=15, cache="hybrid", mask=mask)
    alone = read(model, ids[1:2, 5:], first=10, cache="hybrid")
    if (alone - expected[1:2, 5:]).abs().max() > 1e-3:
        pytest.skip(f"transformers {transformers.__version__}: padding changes the results of eager {name} itself")
    with sparse(model, COVERING):
        actual = read(model, ids, first=15, cache="hybrid", mask=mask)
    close(actual[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt_oss", "mistral"])
def test_generate(name: str, implementation: str) -> None:
    model = tiny_model(name)
    ids = tokens(3, 14)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = dict(attention_mask=mask, max_new_tokens=10, do_sample=False)
    if implementation == "static":
        options["cache_implementation"] = "static"
    expected = model.generate(ids, **options)
    with sparse(model, COVERING):
        assert model.generate(ids, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_prompt_in_chunks(name: str) -> None:
    model = tiny_model(name)
    ids = tokens(2, 30)
    expected = read(model, ids, first=30)
    with sparse(model, COVERING), torch.no_grad():
        cache = new_cache("dynamic", model, 2, 30)
        logits = [model(input_ids=ids[:, a : a + 10], past_key_values=cache).logits for a in (0, 10, 20)]
    close(torch.cat(logits, 1), expected)


def test_beam_search_and_sampling() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 12)
    for options in (dict(num_beams=3, do_sample=False), dict(do_sample=True, top_k=20)):
        torch.manual_seed(5)
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, **options)
        with sparse(model, COVERING):
            torch.manual_seed(5)
            actual = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, **options)
        assert actual.tolist() == expected.tolist()


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_masks_of_ones_own(form: str) -> None:
    model = tiny_model("llama")
    ids = tokens(2, 12)
    seen = torch.ones(12, 12, dtype=torch.bool).tril()
    seen[7:, 2:4] = False  # a hole that is no padding
    lowest = torch.finfo(torch.float32).min
    additive = torch.zeros(12, 12).masked_fill_(~seen, lowest)[None, None].expand(2, 1, 12, 12)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=additive).logits
        with sparse(model, COVERING):
            own = seen[None, None].expand(2, 1, 12, 12) if form == "bool" else additive
            close(model(input_ids=ids, attention_mask=own).logits, expected)


def test_right_padding() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        with sparse(model, COVERING):
            actual = model(input_ids=ids, attention_mask=mask).logits
    close(actual[mask.bool()], expected[mask.bool()])
