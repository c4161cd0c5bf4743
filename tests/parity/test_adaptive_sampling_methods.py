"""Adaptive sampling step by step: range, base sample, budget, and add_mask through replaced steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparse_attention_hub.sparse_attention import AdaptiveSamplingMasker, AdaptiveSamplingMaskerConfig, Mask

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, DIM = 2, 4, 2, 3, 60, 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masker_of(
    base: float | int = 0.2, epsilon: float = 0.1, delta: float = 0.05, init: float | int = 2, local: float | int = 3
) -> AdaptiveSamplingMasker:
    return AdaptiveSamplingMasker(AdaptiveSamplingMaskerConfig(base, epsilon, delta, init, local))


@pytest.mark.parametrize(
    ("delta", "quantile"), [(0.01, 2.3263479), (0.05, 1.6448536), (0.2, 0.8416212), (0.5, 0.0), (0.6, -0.2533471)]
)
def test_the_quantile(delta: float, quantile: float) -> None:
    value = masker_of(delta=delta).delta_ppf
    assert isinstance(value, float)
    assert value == pytest.approx(quantile, abs=1e-6)


@pytest.mark.parametrize(
    ("init", "local", "keys", "expected"),
    [(2, 3, 16, (2, 13, 11)), (0.1, 0.2, 100, (10, 80, 70)), (5, 0.25, 100, (5, 75, 70)), (10, 10, 15, (10, 5, -5))],
)
def test_the_range(init: float | int, local: float | int, keys: int, expected: tuple[int, int, int]) -> None:
    assert masker_of(init=init, local=local)._get_sampling_range(keys) == expected


def test_too_short_a_range() -> None:
    masker = masker_of()
    assert [masker.should_return_full_mask(n) for n in (-5, 0, 1, 2, 100)] == [True, True, True, False, False]


@pytest.mark.parametrize(("base", "count"), [(0.2, 20), (0.001, 2), (7, 7), (1, 2), (0.29, 28)])
def test_the_size_of_the_base_sample(base: float | int, count: int) -> None:
    assert masker_of(base)._get_base_sample_count(100) == count


def test_exponentials_refer_to_the_highest_logit_of_all_keys() -> None:
    masker = masker_of()
    queries, keys = normal(BATCH, HEADS, QUERIES, DIM), normal(BATCH, KV_HEADS, KEYS, DIM, seed=1)
    bias = normal(1, 1, QUERIES, KEYS + 5, seed=2)
    logits = queries.double() @ keys.double().repeat_interleave(2, 1).transpose(2, 3) * 0.3
    for mask, expected in ((None, logits), (bias, logits + bias.double()[..., :KEYS])):
        got = masker._compute_exp_attention_scores(queries, keys, 0.3, mask)
        assert torch.allclose(got.double(), (expected - expected.amax(-1, keepdim=True)).exp(), atol=1e-5)
    large = masker._compute_exp_attention_scores(1000 * queries, 1000 * keys, 1.0, None)
    assert bool(large.isfinite().all()) and large.max() == 1
    half = masker._compute_exp_attention_scores(queries.half(), keys.half(), 0.3, None)
    assert half.dtype == torch.float16


def test_the_base_sample() -> None:
    masker = masker_of()
    exponentials = normal(BATCH, HEADS, QUERIES, KEYS).exp()
    arguments = (exponentials, BATCH, HEADS, QUERIES, KEYS, 2, 57, 11, torch.float32)
    torch.manual_seed(4)
    mask, deviation = masker._get_std_estimate_using_base_sample(*arguments)
    torch.manual_seed(4)
    drawn = torch.randint(2, 57, (BATCH, HEADS, QUERIES, 11))
    expected = torch.zeros_like(exponentials).scatter(-1, drawn, 11 / 55)
    assert torch.equal(mask.get_dense_mask(), expected)
    picked = exponentials.double().gather(-1, drawn)
    variance = (picked - picked.mean(-1, keepdim=True)).square().sum(-1, keepdim=True) / 10
    assert deviation.shape == (BATCH, HEADS, QUERIES, 1)
    assert torch.allclose(deviation.double(), variance.sqrt(), rtol=1e-5)


def test_a_constant_base_sample_and_one_larger_than_its_range() -> None:
    masker = masker_of()
    constant = torch.ones(1, 1, 1, 20)
    mask, deviation = masker._get_std_estimate_using_base_sample(constant, 1, 1, 1, 20, 5, 9, 8, torch.float32)
    assert deviation.item() == pytest.approx(1e-8)
    dense = mask.get_dense_mask()
    assert dense.max() == 1  # and not 8 / 4
    assert not dense[..., :5].any() and not dense[..., 9:].any()


def test_the_budget() -> None:
    masker = masker_of(epsilon=0.1, delta=0.05)
    deviation = torch.tensor([0.01, 0.05, 0.2, 1e-8]).view(1, 4, 1, 1)
    total = torch.tensor([20.0, 30.0, 0.5, 10.0]).view(1, 4, 1, 1)
    budget = masker._compute_adaptive_budget(deviation, total, 1000)
    exact = [(1.6448536 * s * 1000 / (0.1 * d)) ** 2 for s, d in zip((0.01, 0.05, 0.2), (20, 30, 0.5))]
    assert budget.flatten().tolist() == [math.floor(exact[0]), math.floor(exact[1]), 1000, 1]
    assert budget.dtype == torch.int64
    assert bool((masker._compute_adaptive_budget(deviation, 0 * total, 1000)[:, :3] == 1000).all())


def test_more_allowed_failures_never_cost_more() -> None:
    """The hub squares a negative quantile: its budget rises again beyond delta = 1/2."""
    budgets = [
        int(masker_of(delta=delta)._compute_adaptive_budget(torch.tensor([[0.1]]), torch.tensor([[50.0]]), 1000))
        for delta in (0.05, 0.2, 0.4, 0.5, 0.7, 0.95)
    ]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-3:] == [1, 1, 1]


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 0.1), (0.05, 0.2)])
def test_the_budget_keeps_its_one_sided_promise(epsilon: float, delta: float) -> None:
    """Of 2000 trials about delta 2000 exceed epsilon on one side; 5 standard deviations: false alarms below 1e-5."""
    generator = torch.Generator().manual_seed(1)
    population = torch.rand(20000, generator=generator, dtype=torch.float64)
    total, deviation = population.sum(), population.std()
    masker = masker_of(epsilon=epsilon, delta=delta)
    budget = int(
        masker._compute_adaptive_budget(deviation.float().view(1, 1), total.float().view(1, 1), population.numel())
    )
    draws = torch.randint(population.numel(), (2000, budget), generator=generator)
    estimates = population[draws].mean(-1) * population.numel()
    failures = int((estimates > (1 + epsilon) * total).sum())
    # A budget this small leaves the normal approximation some room.
    assert abs(failures - delta * 2000) < 5 * math.sqrt(2000 * delta * (1 - delta)) + 0.2 * delta * 2000


def add_mask(masker: AdaptiveSamplingMasker, previous: Mask, scale: float = 1.0) -> Mask:
    queries, keys = scale * normal(1, HEADS, QUERIES, DIM), scale * normal(1, KV_HEADS, KEYS, DIM, seed=1)
    return masker.add_mask(keys, queries, keys, None, 0.3, 0.0, sparse_meta_data={}, previous_mask=previous)


def held(dtype: torch.dtype = torch.float32) -> Mask:
    dense = torch.zeros(1, HEADS, QUERIES, KEYS, dtype=dtype)
    dense[..., [0, 1, -1]] = 1
    return Mask.create_mask_from_dense_mask(tuple(dense.shape), dense, dtype)


@pytest.mark.parametrize("base", [0, 0.0])
def test_a_base_rate_of_zero_passes_the_mask_through(base: float | int) -> None:
    previous = held()
    assert add_mask(masker_of(base), previous) is previous


class Stepwise(AdaptiveSamplingMasker):
    def _get_sampling_range(self, seq_len_keys: int) -> tuple[int, int, int]:
        return 10, 50, 40


def test_add_mask_by_steps() -> None:
    masker = Stepwise(masker_of().config)
    torch.manual_seed(0)
    mask = add_mask(masker, held()).get_dense_mask()
    torch.manual_seed(0)
    assert torch.equal(add_mask(masker, held()).get_dense_mask(), mask)
    assert bool((mask[..., [0, 1, -1]] == 1).all())
    assert not mask[..., 2:10].any() and not mask[..., 50:-1].any()
    sampled = mask[..., 10:50]
    rows = sampled.amax(-1)
    assert bool((rows >= 8 / 40).all())  # at least the base sample's size
    assert bool(((sampled == 0) | (sampled == rows.unsqueeze(-1))).all())  # one probability a row
    assert bool(torch.isclose(rows * 40, (rows * 40).round()).all())


def test_steps_follow_the_hub_number_for_number() -> None:
    """The C++ masker of the hub's rule draws the same from the same generator."""
    config: Any = AdaptiveSamplingMaskerConfig(4, 0.15, 0.1, 2, 3, estimator="hub")

    class Same(AdaptiveSamplingMasker):
        def _get_base_sample_count(self, sampling_range: int) -> int:
            return super()._get_base_sample_count(sampling_range)

    for previous in (held(), Mask.create_empty_mask((1, HEADS, QUERIES, KEYS), torch.float32, torch.device("cpu"))):
        torch.manual_seed(3)
        in_core = add_mask(AdaptiveSamplingMasker(config), previous).get_dense_mask()
        torch.manual_seed(3)
        by_steps = add_mask(Same(config), previous).get_dense_mask()
        assert torch.allclose(in_core, by_steps)
        sizes = (in_core[..., 2:-3].amax(-1) * 55).round()  # of rows
        assert int(((sizes > 4) & (sizes < 55)).sum()) > 2  # neither the base sample's nor all


def test_large_inputs_stay_finite() -> None:
    for kind in (AdaptiveSamplingMasker, Stepwise):
        mask = add_mask(kind(masker_of().config), held(), 1000.0).get_dense_mask()
        assert bool(mask.isfinite().all())


def test_a_short_range_is_attended_in_full() -> None:
    class Short(AdaptiveSamplingMasker):
        def _get_sampling_range(self, seq_len_keys: int) -> tuple[int, int, int]:
            return 10, 11, 1

    assert add_mask(Short(masker_of().config), held()).is_full_mask()
