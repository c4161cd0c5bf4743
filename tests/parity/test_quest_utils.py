"""quest_utils and common_utils: against loops and float64, and against the Python hub's numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils.common_utils import (
    pseudo_quantize,
)
from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils.quest_utils import (
    attention_mask_to_allowed_prob,
    compute_page_min_max,
    pages_to_token_mask,
    pages_valid,
    quest_page_scores,
)

import golden

CPU = torch.device("cpu")
GOLDEN = golden.load("key_index")


def keys_of(n, dtype=torch.float32):
    return torch.randn(2, 3, n, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


class TestPseudoQuantize:
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_numbers_of_the_hub(self, bits):
        out = pseudo_quantize(golden.generate((2, 3, 4), 0.9, 0.3), bits)
        torch.testing.assert_close(out.flatten(), torch.tensor(GOLDEN["pseudo_quantize"][f"q{bits}"]), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("bits", [1, 3, 8, 16])
    def test_against_float64(self, bits):
        x = keys_of(7)
        wide = x.double()
        low, high = wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True)
        scale = (2**bits - 1) / (high - low)
        torch.testing.assert_close(
            pseudo_quantize(x, bits).double(), ((wide - low) * scale).round() / scale + low, rtol=0, atol=1e-4
        )

    def test_constant_vectors_and_types(self):
        assert torch.equal(pseudo_quantize(torch.full((2, 4), 0.7), 4), torch.full((2, 4), 0.7))
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            assert pseudo_quantize(torch.rand(2, 4).to(dtype), 4).dtype == dtype

    @pytest.mark.parametrize("bits", [0, 17])
    def test_range(self, bits):
        with pytest.raises(ValueError, match=rf"q_bit must be in \[1, 16\], got {bits}"):
            pseudo_quantize(torch.rand(2, 4), bits)


class TestPages:
    @pytest.mark.parametrize(("n", "size"), [(8, 4), (9, 4), (3, 4), (7, 1)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_min_and_max(self, n, size, dtype):
        keys, pages = keys_of(n, dtype), math.ceil(n / size)
        low, high = compute_page_min_max(keys, size, pages)
        assert low.shape == high.shape == (2, 3, pages, 4) and low.dtype == dtype
        for page in range(pages):
            held = keys[:, :, page * size : (page + 1) * size]
            assert torch.equal(low[:, :, page], held.amin(2)) and torch.equal(high[:, :, page], held.amax(2))

    def test_pages_that_hold_too_little(self):
        with pytest.raises(ValueError, match="pages must hold all 9 keys, got 2 pages of 4"):
            compute_page_min_max(keys_of(9), 4, 2)
        with pytest.raises(ValueError, match="pages must hold all 9 keys"):
            pages_valid(torch.ones(1, 1, 1, 9), 4, 2)

    def test_scores_against_float64(self):
        queries = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(2))
        low, high = compute_page_min_max(keys_of(9), 4, 3)
        q = queries.double().unsqueeze(3)
        expected = torch.maximum(q * low.double().unsqueeze(2), q * high.double().unsqueeze(2)).sum(-1)
        scores = quest_page_scores(queries, low, high)
        torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)
        products = queries @ keys_of(9).transpose(2, 3)
        for page in range(3):
            assert bool((products[..., page * 4 : page * 4 + 4] <= scores[..., page : page + 1] + 1e-5).all())

    def test_scores_of_the_hub(self):
        queries, keys, _ = golden.inputs()
        low, high = compute_page_min_max(keys.repeat_interleave(2, 1), GOLDEN["quest"]["page_size"], 5)
        torch.testing.assert_close(
            quest_page_scores(queries, low, high).flatten(), torch.tensor(GOLDEN["quest"]["scores"]), rtol=1e-5, atol=1e-5
        )

    def test_infinities(self):
        low, high = torch.tensor([[[[-1.0, 1.0]]]]), torch.tensor([[[[2.0, 3.0]]]])
        assert quest_page_scores(torch.tensor([[[[torch.inf, 1.0]]]]), low, high).item() == torch.inf
        assert quest_page_scores(torch.tensor([[[[0.5, -torch.inf]]]]), low, high).item() == -torch.inf
        high[..., 0] = torch.inf  # a bound may be infinite where the query points away from it
        assert quest_page_scores(torch.tensor([[[[-2.0, 1.0]]]]), low, high).item() == 2 + 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool])
    def test_tokens_of_pages(self, dtype):
        pages = torch.tensor([[[[0, 2], [1, 1]]]])
        mask = pages_to_token_mask(pages, 5, 2, CPU, dtype)
        assert mask.dtype == dtype
        assert mask.float().tolist() == [[[[1, 1, 0, 0, 1], [0, 0, 1, 1, 0]]]]

    def test_no_pages(self):
        mask = pages_to_token_mask(torch.zeros(1, 2, 3, 0, dtype=torch.int64), 7, 2, CPU, torch.float32)
        assert torch.equal(mask, torch.zeros(1, 2, 3, 7))

    def test_page_that_does_not_exist(self):
        with pytest.raises((RuntimeError, IndexError)):
            pages_to_token_mask(torch.full((1, 1, 1, 1), 3), 5, 2, CPU, torch.float32)


class TestAllowed:
    def test_bool_forbids(self):
        mask = torch.tensor([[[[False, True, False, True]]]])
        allowed = attention_mask_to_allowed_prob(mask, 3)
        assert allowed.dtype == torch.float32 and allowed.tolist() == [[[[1, 0, 1]]]]

    def test_numbers_below_zero_forbid(self):
        mask = torch.tensor([0.0, -1e-3, torch.finfo(torch.float32).min, 2.0, -torch.inf]).view(1, 1, 1, 5)
        assert attention_mask_to_allowed_prob(mask, 5).tolist() == [[[[1, 0, 0, 1, 0]]]]
        assert attention_mask_to_allowed_prob(mask.bfloat16(), 4).dtype == torch.bfloat16

    def test_ranks(self):
        mask = torch.zeros(2, 3, 6)
        assert attention_mask_to_allowed_prob(mask, 4).shape == (2, 1, 3, 4)
        assert attention_mask_to_allowed_prob(mask[0], 4).shape == (1, 1, 3, 4)
        for bad in (torch.zeros(6), torch.zeros(1, 1, 1, 1, 6), torch.zeros(1, 1, 3, 3)):
            with pytest.raises(ValueError, match="attention_mask must be"):
                attention_mask_to_allowed_prob(bad, 4)

    def test_pages(self):
        allowed = torch.zeros(1, 2, 2, 7)
        allowed[0, 1, 0, 4] = 1  # of one head
        allowed[0, 0, 1, 6] = 0.5  # in the tail
        valid = pages_valid(allowed, 3, 3)
        assert valid.dtype == torch.bool
        assert valid.tolist() == [[[False, True, False], [False, False, True]]]
