"""mask_attention_utils: every function against float64."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch

from sparse_attention_hub.sparse_attention.utils import mask_attention_utils as utils
from sparse_attention_hub.sparse_attention.utils.mask import Mask

B, H, KV, Q, K, D, DV = 2, 4, 2, 3, 17, 8, 6
SCALING = 0.3
SHAPE = (B, H, Q, K)


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(shape, generator=generator) for shape in ((B, H, Q, D), (B, KV, K, D), (B, KV, K, DV)))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def random_mask(density=0.5, seed=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(SHAPE, generator=generator) * (torch.rand(SHAPE, generator=generator) < density)
    weights[..., 0] = 1  # no row without a key
    return Mask.create_mask_from_dense_mask(SHAPE, weights.to(dtype), dtype)


def bias(columns=K + 5):
    generator = torch.Generator().manual_seed(3)
    added = torch.randn(B, 1, Q, columns, generator=generator)
    added[torch.rand(added.shape, generator=generator) < 0.3] = torch.finfo(torch.float32).min
    added[..., 0] = 0
    return added


def reference(q, k, v, added, mask, sinks=None):
    """(E [B, H, Q, K], output [B, H, Q, DV], weights) in float64, E relative to the row's highest logit."""
    q, k, v = (x.double() for x in (q, k.repeat_interleave(H // KV, 1), v.repeat_interleave(H // KV, 1)))
    logits = q @ k.transpose(2, 3) * SCALING
    if added is not None:
        logits = logits + added[..., :K].double()
    highest = logits.max(-1, keepdim=True).values
    e = (logits - highest).exp()
    if not (mask.is_full or mask.is_empty):
        w = mask.get_dense_mask().double()
        e = torch.where(w != 0, e / (w + 1e-6), torch.zeros_like(e))
    den = e.sum(-1, keepdim=True)
    if sinks is not None:
        den = den + (sinks.double().view(1, -1, 1, 1) - highest).exp()
    return e, e @ v / den, e / den


def output_of(q, k, v, added, mask, sinks=None, **kwargs):
    return utils.get_masked_attention_output(None, q, k, v, added, sinks, SCALING, 0.0, mask, **kwargs)


MASKS = {
    "empty": Mask.create_empty_mask(SHAPE, torch.float32, torch.device("cpu")),
    "full": Mask.create_full_mask(SHAPE, torch.float32, torch.device("cpu")),
    "dense": random_mask(),
    "index": Mask.create_mask_from_indices(SHAPE, *random_mask().get_index_mask(), torch.float32),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("added", [None, "bias"])
class TestAgainstFloat64:
    def test_exponentials(self, kind, added):
        q, k, v = tensors()
        added = added and bias()
        e = utils._compute_masked_exp_attention_weights(q, k, added, SCALING, MASKS[kind])
        assert e.dtype == torch.float32
        torch.testing.assert_close(e.double(), reference(q, k, v, added, MASKS[kind])[0], rtol=1e-5, atol=1e-9)

    def test_numerator_and_denominator(self, kind, added):
        q, k, v = tensors()
        added = added and bias()
        e, _, _ = reference(q, k, v, added, MASKS[kind])
        den = utils.get_attention_denominator(None, q, k, added, SCALING, 0.0, MASKS[kind])
        num = utils.get_attention_numerator(None, q, k, v, added, SCALING, 0.0, MASKS[kind])
        assert den.shape == (B, H, Q, 1) and num.shape == (B, H, Q, DV)
        torch.testing.assert_close(den.double(), e.sum(-1, keepdim=True), rtol=1e-5, atol=0)
        torch.testing.assert_close(num.double(), e @ v.double().repeat_interleave(H // KV, 1), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 40.0])])
    def test_output_and_weights(self, kind, added, sinks):
        q, k, v = tensors()
        added = added and bias()
        _, expected, expected_weights = reference(q, k, v, added, MASKS[kind], sinks)
        out, weights = output_of(q, k, v, added, MASKS[kind], sinks, return_attention_weights=True, layer_idx=3)
        assert out.shape == (B, Q, H, DV) and out.is_contiguous() and out.dtype == torch.float32
        torch.testing.assert_close(out.transpose(1, 2).double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights.double(), expected_weights, rtol=1e-5, atol=1e-7)
        if sinks is None:
            torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, Q))
        assert output_of(q, k, v, added, MASKS[kind], sinks)[1] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_float32_between(dtype):
    q, k, v = tensors(dtype)
    mask = random_mask(dtype=dtype)
    out, weights = output_of(q, k, v, None, mask, return_attention_weights=True)
    _, expected, expected_weights = reference(q, k, v, None, mask)
    assert out.dtype == dtype and weights.dtype == dtype
    # One rounding at the end: half a unit in the last place.
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(out.transpose(1, 2).double(), expected, rtol=0.51 * unit, atol=1e-5)
    torch.testing.assert_close(weights.double(), expected_weights, rtol=0.51 * unit, atol=1e-5)


class TestEdges:
    def test_row_without_a_key_is_zero(self):
        q, k, v = tensors()
        weights = random_mask().get_dense_mask().clone()
        weights[0, 1, 2] = 0
        out, attention = output_of(
            q, k, v, None, Mask.create_mask_from_dense_mask(SHAPE, weights), return_attention_weights=True
        )
        assert torch.equal(out[0, 2, 1], torch.zeros(DV)) and torch.equal(attention[0, 1, 2], torch.zeros(K))
        assert bool((out[0, 1, 1] != 0).all()) and not out.isnan().any()

    def test_zeros_are_not_the_empty_flag(self):
        q, k, v = tensors()
        zeros = Mask.create_mask_from_dense_mask(SHAPE, torch.zeros(SHAPE))
        assert torch.equal(output_of(q, k, v, None, zeros)[0], torch.zeros(B, Q, H, DV))
        assert bool((output_of(q, k, v, None, MASKS["empty"])[0] != 0).any())

    def test_row_that_nothing_allows_is_zero(self):
        q, k, v = tensors()
        added = torch.zeros(B, 1, Q, K)
        added[1, 0, 0] = -torch.inf
        out, _ = output_of(q, k, v, added, MASKS["full"])
        assert torch.equal(out[1, 0], torch.zeros(H, DV)) and not out.isnan().any()
        true, _ = utils.get_true_attention_output(None, q, k, v, added, SCALING, 0.0)
        assert not true.isnan().any()

    @pytest.mark.parametrize("gap", [60.0, 90.0, 300.0])
    def test_selected_keys_far_below_the_highest(self, gap):
        q = torch.ones(1, 1, 1, 1)
        k = torch.tensor([gap, 0.0, math.log(2.0)]).view(1, 1, 3, 1)
        v = torch.tensor([100.0, 1.0, 4.0]).view(1, 1, 3, 1)
        mask = Mask.create_mask_from_dense_mask((1, 1, 1, 3), torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3))
        out, _ = utils.get_masked_attention_output(None, q, k, v, None, None, 1.0, 0.0, mask)
        torch.testing.assert_close(out, torch.full((1, 1, 1, 1), 3.0))
        sink = torch.tensor([math.log(3.0)])
        out, _ = utils.get_masked_attention_output(None, q, k, v, None, sink, 1.0, 0.0, mask)
        torch.testing.assert_close(out, torch.full((1, 1, 1, 1), 1.5))

    def test_key_that_is_left_out_may_be_anything(self):
        q, k, v = tensors()
        weights = random_mask().get_dense_mask().clone()
        weights[:, :2, :, 5] = 0
        mask = Mask.create_mask_from_dense_mask(SHAPE, weights)
        expected, _ = output_of(q, k, v, None, mask)
        k[:, 0, 5] = torch.nan
        actual, _ = output_of(q, k, v, None, mask)
        torch.testing.assert_close(actual[:, :, :2], expected[:, :, :2])

    def test_gradients_are_those_of_the_formula(self):
        tensors_ = [x.double().requires_grad_() for x in tensors()]
        mask = random_mask()
        expected = torch.autograd.grad(reference(*tensors_, None, mask)[1].square().sum(), tensors_)
        wide = [x.detach().float().requires_grad_() for x in tensors_]
        actual = torch.autograd.grad(output_of(*wide, None, mask)[0].square().sum(), wide)
        for a, e in zip(actual, expected):
            torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-5)


class TestErrors:
    def test_mask_shape(self):
        q, k, v = tensors()
        with pytest.raises(ValueError, match="sparse_attention_mask.shape must be"):
            output_of(q, k, v, None, Mask.create_mask_from_dense_mask((1, 2), torch.ones(1, 2)))

    def test_bool_attention_mask(self):
        q, k, v = tensors()
        for call in (output_of, lambda *a: utils.get_true_attention_output(None, *a[:4], SCALING, 0.0)):
            with pytest.raises(ValueError, match="attention_mask must be additive"):
                call(q, k, v, torch.ones(1, 1, Q, K, dtype=torch.bool), MASKS["full"])

    def test_short_attention_mask(self):
        q, k, v = tensors()
        with pytest.raises(ValueError, match="attention_mask must have a column for each of the 17 keys, got 16"):
            output_of(q, k, v, torch.zeros(1, 1, Q, K - 1), MASKS["full"])

    @pytest.mark.parametrize("sinks", [torch.zeros(H + 1), torch.zeros(1, H)])
    def test_sinks(self, sinks):
        q, k, v = tensors()
        with pytest.raises(AssertionError, match="sinks must be 1D tensor of shape"):
            output_of(q, k, v, None, MASKS["full"], sinks)


class TestSinks:
    def test_two_equal_keys_and_a_sink(self):
        q, k, v = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
        full = Mask.create_full_mask((1, 1, 1, 2))
        _, weights = utils.get_masked_attention_output(
            None, q, k, v, None, torch.zeros(1), 1.0, 0.0, full, return_attention_weights=True
        )
        torch.testing.assert_close(weights, torch.full((1, 1, 1, 2), 1 / 3))

    def test_none_changes_nothing(self):
        num, den, e = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 3)
        result = utils.apply_sink_bias(num, den, e, None, None, None, None, 1.0)
        assert result[0] is num and result[1] is den and result[2] is e

    def test_may_be_left_out_by_keyword(self):
        q, k, v = tensors()
        five = dict(module=None, queries=q, keys=k, values=v, attention_mask=bias())
        three = dict(scaling=SCALING, dropout=0.0, sparse_attention_mask=MASKS["dense"])
        out, weights = utils.get_masked_attention_output(**five, **three, return_attention_weights=True)
        expected, expected_weights = output_of(q, k, v, bias(), MASKS["dense"], return_attention_weights=True)
        assert torch.equal(out, expected) and torch.equal(weights, expected_weights)
        for name in three:
            with pytest.raises(TypeError, match=name):
                utils.get_masked_attention_output(**five, **{n: value for n, value in three.items() if n != name})

    def test_step_by_step(self):
        q, k, v = tensors()
        sinks, added = torch.tensor([0.5, -1.0, 2.0, 40.0]), bias()
        mask = MASKS["dense"]
        e = utils._compute_masked_exp_attention_weights(q, k, added, SCALING, mask)
        num = utils._get_attention_numerator(e, v)
        den = utils._get_attention_denominator(e)
        num, den, e = utils.apply_sink_bias(num, den, e, q, k, added, sinks, SCALING)
        out, weights = output_of(q, k, v, added, mask, sinks, return_attention_weights=True)
        torch.testing.assert_close((num / den).transpose(1, 2), out)
        torch.testing.assert_close(e / den, weights)


class TestDropout:
    def test_goes_through_torchs_function(self):
        q, k, v = tensors()
        with mock.patch("torch.nn.functional.dropout", side_effect=lambda x, **_: x * 2) as dropout:
            e = utils._compute_masked_exp_attention_weights(q, k, None, SCALING, MASKS["full"], 0.5, True)
            assert dropout.call_count == 1
            torch.testing.assert_close(e.double(), 2 * reference(q, k, v, None, MASKS["full"])[0], rtol=1e-5, atol=1e-9)
            utils._compute_masked_exp_attention_weights(q, k, None, SCALING, MASKS["full"], 0.5, False)
            utils._compute_masked_exp_attention_weights(q, k, None, SCALING, MASKS["full"], 0.0, True)
            assert dropout.call_count == 1
            for training in (False, True):
                module = torch.nn.Identity().train(training)
                utils.get_masked_attention_output(module, q, k, v, None, None, SCALING, 0.5, MASKS["full"])
                utils.get_attention_denominator(module, q, k, None, SCALING, 0.5, MASKS["full"])
                assert dropout.call_count == (3 if training else 1)

    def test_steps_can_be_replaced(self):
        q, k, v = tensors()
        fixed = torch.ones(SHAPE)
        with mock.patch.object(utils, "_compute_masked_exp_attention_weights", return_value=fixed) as compute:
            den = utils.get_attention_denominator(None, q, k, None, SCALING, 0.0, MASKS["full"])
            assert torch.equal(den, torch.full((B, H, Q, 1), float(K)))
            num = utils.get_attention_numerator(None, q, k, v, None, SCALING, 0.0, MASKS["full"])
            assert compute.call_count == 2
        torch.testing.assert_close(num, v.repeat_interleave(2, 1).sum(2, keepdim=True).expand(-1, -1, Q, -1))


class TestTrueAttention:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("added", [None, "bias"])
    def test_equals_dense(self, dtype, added):
        q, k, v = tensors(dtype)
        added = added and bias()
        out, weights = utils.get_true_attention_output(torch.nn.Identity(), q, k, v, added, SCALING, 0.0, layer_idx=1)
        assert weights is None and out.shape == (B, Q, H, DV) and out.dtype == dtype
        _, expected, _ = reference(q, k, v, added, MASKS["full"])
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(out.transpose(1, 2).double(), expected, rtol=tolerance, atol=tolerance)

    def test_sinks(self):
        q, k, v = tensors()
        sinks = torch.tensor([0.5, -1.0, 2.0, 4.0])
        out, _ = utils.get_true_attention_output(None, q, k, v, None, SCALING, 0.0, s_aux=sinks)
        torch.testing.assert_close(out.transpose(1, 2).double(), reference(q, k, v, None, MASKS["full"], sinks)[1],
                                   rtol=1e-5, atol=1e-6)

    def test_dropout_only_in_training(self):
        q, k, v = tensors()
        torch.manual_seed(0)
        expected, _ = utils.get_true_attention_output(None, q, k, v, None, SCALING, 0.0)
        for training in (False, True):
            module = torch.nn.Identity().train(training)
            out, _ = utils.get_true_attention_output(module, q, k, v, None, SCALING, 0.5)
            assert torch.equal(out, expected) is not training


def test_inverse_mask_sum():
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    for name, mask in MASKS.items():
        total = utils.apply_inv_mask_sum(x, mask)
        w = mask.get_dense_mask().double()
        expected = x.double() if name in ("full", "empty") else torch.where(w != 0, x / (w + 1e-6), 0 * w)
        torch.testing.assert_close(total.double(), expected.sum(-1, keepdim=True), rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="input_tensor.shape must be"):
        utils.apply_inv_mask_sum(x[0], MASKS["dense"])


class TestSampling:
    def test_rows_get_their_budgets(self):
        torch.manual_seed(5)
        budgets = torch.randint(0, 6, (2, 3, 4, 1))
        probability = torch.rand(2, 3, 4, 1)
        mask = utils.create_sampling_mask_with_per_head_budget(budgets, probability, 32, 4, 20)
        indices, ptr, data = mask.get_index_mask()
        assert mask.from_index is True and mask.shape == (2, 3, 4, 32) and mask.dtype == torch.float32
        assert torch.equal(ptr.diff(), budgets.flatten()) and ptr[0] == 0
        rows = torch.repeat_interleave(torch.arange(24), budgets.flatten())
        assert torch.equal(indices // 32, rows) and torch.equal(data, probability.flatten()[rows])
        columns = indices % 32
        assert bool(((columns >= 4) & (columns < 20)).all())

    def test_draws_of_the_hub(self):
        """The Python hub's, seed 3."""
        torch.manual_seed(3)
        mask = utils.create_sampling_mask_with_per_head_budget(
            torch.tensor([2, 3, 1, 4]).view(1, 2, 2, 1), torch.tensor([0.2, 0.3, 0.1, 0.4]).view(1, 2, 2, 1), 32, 4, 20
        )
        indices, ptr, data = mask.get_index_mask()
        assert indices.tolist() == [14, 12, 45, 39, 44, 76, 100, 105, 113, 103] and ptr.tolist() == [0, 2, 5, 6, 10]
        torch.testing.assert_close(data, torch.tensor([0.2] * 2 + [0.3] * 3 + [0.1] + [0.4] * 4))

    def test_nothing_to_draw(self):
        budgets = torch.zeros(1, 2, 3, 1, dtype=torch.int64)
        mask = utils.create_sampling_mask_with_per_head_budget(budgets, torch.ones(1, 2, 3, 1), 8, 3, 3, torch.float16)
        assert mask.from_index is True and mask.is_empty is False and mask.dtype == torch.float16
        assert mask.get_index_mask()[0].numel() == 0 and mask.get_density() == 0.0

    @pytest.mark.parametrize(("start", "end"), [(4, 4), (5, 4), (-1, 4), (0, 9)])
    def test_range(self, start, end):
        with pytest.raises(ValueError, match="start_idx and end_idx must be a range of the 8 keys"):
            utils.create_sampling_mask_with_per_head_budget(
                torch.ones(1, 1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1, 1), 8, start, end
            )
