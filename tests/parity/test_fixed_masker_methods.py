"""The methods of sinks, local window and oracles beside add_mask, against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_attention_hub.sparse_attention import (
    LocalMasker,
    LocalMaskerConfig,
    Mask,
    OracleTopK,
    OracleTopKConfig,
    OracleTopPMasker,
    OracleTopPMaskerConfig,
    SinkMasker,
    SinkMaskerConfig,
)
from sparse_attention_hub.sparse_attention.research_attention.maskers.base import AttentionTensorDimensions

HEADS, KV_HEADS, QUERIES, KEYS, DIM = 4, 2, 3, 20, 8
SHAPE = (1, HEADS, QUERIES, KEYS)
DIMS = AttentionTensorDimensions(*SHAPE)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mask_of(dense: torch.Tensor) -> Mask:
    return Mask.create_mask_from_dense_mask(tuple(dense.shape), dense, dense.dtype)


def some_weights() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(SHAPE, generator=generator) * (torch.rand(SHAPE, generator=generator) < 0.4)


QUERY_ROWS = torch.arange(QUERIES).view(QUERIES, 1)
COLUMNS = torch.arange(KEYS).view(1, KEYS)
KEYS_TENSOR, QUERIES_TENSOR = normal(1, KV_HEADS, KEYS, DIM, seed=1), normal(1, HEADS, QUERIES, DIM, seed=2)


@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("mode", ["dense1", "dense2", "sparse"])
def test_the_window_and_what_lies_behind_it(window: int, mode: str) -> None:
    masker = LocalMasker(LocalMaskerConfig(4))
    position = QUERY_ROWS + KEYS - QUERIES
    before = some_weights()
    expected = torch.where((COLUMNS > position - window) & (COLUMNS <= position), 1.0, before)
    expected = torch.where(COLUMNS > position, 0.0, expected)
    kept = before.clone()
    got = masker.get_updated_mask(DIMS, window, KEYS_TENSOR, mask_of(before), mode=mode)
    assert torch.equal(got.get_dense_mask(), expected)
    for name in ("get_updated_mask_1", "get_updated_mask_2", "get_updated_mask_3"):
        one = getattr(masker, name)(DIMS, window, KEYS_TENSOR, mask_of(before))
        assert torch.equal(one.get_dense_mask(), expected)
    for name in ("update_core", "update_core_broadcast"):
        assert torch.equal(getattr(masker, name)(before, window), expected)
    assert torch.equal(before, kept)


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_sinks(size: int, mode: str) -> None:
    masker = SinkMasker(SinkMaskerConfig(5))
    before = some_weights()
    expected = torch.where(COLUMNS < size, 1.0, before)
    got = masker.get_updated_mask(DIMS, size, KEYS_TENSOR, mask_of(before), mode=mode)
    assert torch.equal(got.get_dense_mask(), expected)
    for name in ("get_updated_mask_sparse", "get_updated_mask_dense"):
        one = getattr(masker, name)(DIMS, size, KEYS_TENSOR, mask_of(before))
        assert torch.equal(one.get_dense_mask(), expected)


@pytest.mark.parametrize("bias", [None, normal(1, 1, QUERIES, KEYS + 2, seed=5)])
@pytest.mark.parametrize("size", [0, 1, 5])
def test_the_highest_products(size: int, bias: torch.Tensor | None) -> None:
    masker = OracleTopK(OracleTopKConfig(5))
    before = some_weights()
    scores = QUERIES_TENSOR.double() @ KEYS_TENSOR.double().repeat_interleave(2, 1).transpose(2, 3)
    if bias is not None:
        scores = scores + bias.double()[..., :KEYS]
    top = scores.masked_fill(before > 0, -torch.inf).topk(size).indices
    expected = before.scatter(-1, top, 1.0)
    for mode in ("new", "old"):
        got = masker.get_updated_mask(DIMS, size, KEYS_TENSOR, QUERIES_TENSOR, bias, mask_of(before), mode=mode)
        assert torch.equal(got.get_dense_mask(), expected)
    core = masker.update_core(QUERIES_TENSOR, KEYS_TENSOR, before, size, -1e30, bias)
    assert torch.equal(core, expected)


@pytest.mark.parametrize(
    ("scores", "top_p", "threshold"),
    [
        ([4.0, 2.0, 1.0, 1.0], 0.4, 4.0),
        ([4.0, 2.0, 1.0, 1.0], 0.5, 2.0),
        ([4.0, 2.0, 1.0, 1.0], 0.75, 1.0),
        ([0.2, 0.1, 0.5], 0.6, 0.5),
    ],
)
def test_thresholds_where_sums_equal_the_share_and_where_not(scores: list[float], top_p: float, threshold: float) -> None:
    masker = OracleTopPMasker(OracleTopPMaskerConfig(0.5))
    for shape in ((1, len(scores)), (1, 1, 1, len(scores))):
        got = masker._compute_top_p_thresholds(torch.tensor(scores).view(shape), top_p)
        assert got.shape == (*shape[:-1], 1)
        assert got.item() == pytest.approx(threshold)


def test_exponentials_of_what_is_left() -> None:
    masker = OracleTopPMasker(OracleTopPMaskerConfig(0.5))
    before = some_weights()
    bias = normal(1, 1, QUERIES, KEYS, seed=5)
    logits = QUERIES_TENSOR.double() @ KEYS_TENSOR.double().repeat_interleave(2, 1).transpose(2, 3)
    assert torch.allclose(
        masker._compute_attention_scores(KEYS_TENSOR, QUERIES_TENSOR).double(), logits, atol=1e-5
    )
    free = (0.3 * logits + bias.double()).masked_fill(before > 0, -torch.inf)
    expected = (free - free.amax(-1, keepdim=True)).exp()
    got = masker._compute_exp_attention_scores(KEYS_TENSOR, QUERIES_TENSOR, before, bias, 0.3)
    assert torch.allclose(got.double(), expected, atol=1e-5)


def test_full_attention() -> None:
    def dims(keys: int) -> AttentionTensorDimensions:
        return AttentionTensorDimensions(1, 1, QUERIES, keys)

    local, sink = LocalMasker(LocalMaskerConfig(0.5)), SinkMasker(SinkMaskerConfig(0.5))
    assert local._calculate_effective_window_size(9) == sink._calculate_effective_sink_size(9) == 4
    assert local._should_use_full_attention(dims(7), 4) and not local._should_use_full_attention(dims(8), 4)
    assert sink._should_use_full_attention(dims(4), 4) and not sink._should_use_full_attention(dims(5), 4)
    oracle = OracleTopK(OracleTopKConfig(0.5))
    assert oracle._calculate_effective_heavy_size(9) == 4
    assert oracle._should_use_full_attention(dims(4), 4) and not oracle._should_use_full_attention(dims(5), 4)
    for top_p, full in ((0.8, False), (0.5, False), (1.0, True)):
        masker = OracleTopPMasker(OracleTopPMaskerConfig(top_p))
        assert masker._should_use_full_attention(dims(10)) is full


def test_scores_of_a_callers_own_decide_in_add_mask() -> None:
    masker = OracleTopPMasker(OracleTopPMaskerConfig(0.5))
    scores = torch.ones(SHAPE)
    scores[..., [4, 9]] = 16.0  # the first 32 of 50: the sum passes one half within the second
    masker._compute_exp_attention_scores = lambda *args, **kwargs: scores  # type: ignore[method-assign]
    arguments: dict[str, Any] = {"attention_mask": None, "scaling": 0.3, "dropout": 0.0, "sparse_meta_data": {}}
    before = torch.zeros(SHAPE)
    before[..., 0] = 0.5
    mask = masker.add_mask(
        KEYS_TENSOR, QUERIES_TENSOR, KEYS_TENSOR, **arguments, previous_mask=mask_of(before), layer_idx=0
    )
    expected = before.clone()
    expected[..., [4, 9]] = 1
    assert torch.equal(mask.get_dense_mask(), expected)
