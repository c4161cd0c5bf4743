"""Mask: applying and merging, by both representations."""

from __future__ import annotations

import pytest
import torch

from sparse_attention_hub.sparse_attention.utils.mask import Mask

MODES = ["dense", "sparse"]
SHAPES = [(6,), (1, 1), (3, 8), (2, 3, 16), (1, 2, 3, 32), (2, 2, 2, 2, 4)]


def random_weights(shape, density, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    return weights.to(dtype)


def make(weights, kind):
    shape, dtype = tuple(weights.shape), weights.dtype
    mask = Mask.create_mask_from_dense_mask(shape, weights, dtype)
    return mask if kind == "dense" else Mask.create_mask_from_indices(shape, *mask.get_index_mask(), dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["dense", "index"])
class TestApply:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
    def test_against_float64(self, mode, kind, shape, density):
        weights = random_weights(shape, density, 1)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        mask = make(weights, kind)
        w = weights.double()
        inverse = torch.where(w != 0, x.double() / (w + 1e-6), torch.zeros_like(w))
        torch.testing.assert_close(mask.apply_mask(x, mode).double(), x.double() * w, rtol=1e-6, atol=0)
        torch.testing.assert_close(mask.apply_inv_mask(x, mode).double(), inverse, rtol=1e-6, atol=0)

    def test_float16_has_no_nan(self, mode, kind):
        mask = make(torch.tensor([[1.0, 0.0, 0.25]], dtype=torch.float16), kind)
        out = mask.apply_inv_mask(torch.ones(1, 3, dtype=torch.float16), mode)
        assert out.dtype == torch.float16 and out.tolist() == [[1.0, 0.0, 4.0]]

    def test_result_has_the_wider_type(self, mode, kind):
        mask = make(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), kind)
        for apply in (mask.apply_mask, mask.apply_inv_mask):
            assert apply(torch.ones(1, 2), mode).dtype == torch.float32
            assert apply(torch.ones(1, 2, dtype=torch.float64), mode).dtype == torch.float64

    def test_what_is_left_out_has_no_effect(self, mode, kind):
        mask = make(torch.tensor([[1.0, 0.0]]), kind)
        out = mask.apply_inv_mask(torch.tensor([[2.0, float("nan")]]), mode)
        torch.testing.assert_close(out, torch.tensor([[2.0, 0.0]]), rtol=2e-6, atol=0)

    def test_input_that_is_not_contiguous(self, mode, kind):
        x = torch.arange(6.0).reshape(3, 2).t()
        mask = make(torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]]), kind)
        assert mask.apply_mask(x, mode).tolist() == [[0.0, 0.0, 2.0], [0.0, 3.0, 5.0]]

    def test_gradient(self, mode, kind):
        weights = random_weights((3, 8), 0.5, 3)
        x = torch.randn(3, 8, requires_grad=True)
        make(weights, kind).apply_inv_mask(x, mode).sum().backward()
        expected = torch.where(weights != 0, 1 / (weights + 1e-6), torch.zeros_like(weights))
        torch.testing.assert_close(x.grad, expected)

    def test_shape_error(self, mode, kind):
        mask = make(torch.ones(2, 3), kind)
        for apply in (mask.apply_mask, mask.apply_inv_mask):
            with pytest.raises(ValueError, match=r"input_tensor.shape must be \(2, 3\), got \(3, 2\)"):
                apply(torch.ones(3, 2), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask", [Mask.create_full_mask((2, 3)), Mask.create_empty_mask((2, 3))])
def test_full_and_empty_return_the_very_tensor(mode, mask):
    x = torch.randn(2, 3)
    assert mask.apply_mask(x, mode) is x and mask.apply_inv_mask(x, mode) is x
    with pytest.raises(ValueError, match="input_tensor.shape must be"):
        mask.apply_mask(torch.ones(3), mode)


def test_stored_zero_is_no_key():
    mask = Mask.create_mask_from_indices(
        (1, 2), torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([0.5, 0.0]), torch.float32)
    out = mask.apply_inv_mask_sparse(torch.ones(1, 2))
    torch.testing.assert_close(out, torch.tensor([[2.0, 0.0]]), rtol=1e-5, atol=0)


def test_weight_factors_of_the_hub():
    mask = make(torch.tensor([[1.0, 0.25]]), "dense")
    torch.testing.assert_close(
        mask.apply_inv_mask(torch.ones(1, 2)), torch.tensor([[0.9999990463, 3.999984]]), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["apply_mask", "apply_inv_mask"])
def test_bad_mode(name):
    mask = make(torch.ones(1, 2), "dense")
    with pytest.raises(ValueError, match="Invalid mode: other"):
        getattr(mask, name)(torch.ones(1, 2), "other")
    with pytest.raises(ValueError, match="Invalid mode: other"):
        mask.merge_mask(mask, inplace=False, mode="other")


@pytest.mark.parametrize("mode", MODES)
class TestMerge:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("kinds", [("dense", "dense"), ("dense", "index"), ("index", "index")])
    @pytest.mark.parametrize("inplace", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_sum_is_clamped(self, mode, shape, kinds, inplace, dtype):
        a, b = random_weights(shape, 0.6, 1, dtype), random_weights(shape, 0.6, 2, dtype)
        before = a.clone()
        first = make(a, kinds[0])
        merged = first.merge_mask(make(b, kinds[1]), inplace, mode)
        assert (merged is first) is inplace
        assert merged.from_index is (mode == "sparse") and merged.from_dense_mask is (mode == "dense")
        assert merged.dtype == dtype and torch.equal(merged.get_dense_mask(), (a + b).clamp(0, 1))
        assert torch.equal(a, before)  # the caller's tensor is not written into

    def test_full_absorbs(self, mode):
        full, some = Mask.create_full_mask((2, 3)), make(random_weights((2, 3), 0.5, 1), "dense")
        for a, b in ((full, some), (some, full)):
            merged = a.merge_mask(b, inplace=False, mode=mode)
            assert merged.is_full is True and merged is not a and merged is not b
        assert some.merge_mask(full, inplace=True, mode=mode) is some
        assert some.is_full is True and some.mask is None and some.from_dense_mask is False

    def test_both_empty(self, mode):
        empty = Mask.create_empty_mask((2, 3))
        other = Mask.create_empty_mask((2, 3))
        assert empty.merge_mask(other, inplace=True, mode=mode) is empty and empty.is_empty
        merged = empty.merge_mask(other, inplace=False, mode=mode)
        assert merged.is_empty is True and merged is not empty

    @pytest.mark.parametrize("inplace", [False, True])
    def test_empty_partner_takes_weights_as_they_are(self, mode, inplace):
        weights = torch.tensor([[1.5, 0.0, -0.5]])
        empty = Mask.create_empty_mask((1, 3))
        merged = empty.merge_mask(make(weights, "dense"), inplace, mode)
        assert merged.is_empty is False and torch.equal(merged.get_dense_mask(), weights)
        some = make(weights, "dense")
        merged = some.merge_mask(Mask.create_empty_mask((1, 3)), inplace, mode)
        assert (merged is some) is inplace and torch.equal(merged.get_dense_mask(), weights)

    def test_in_place_takes_the_other_over(self, mode):
        weights = torch.tensor([[0.5, 0.0, 1.0]])
        empty = Mask.create_empty_mask((1, 3))
        assert empty.merge_mask(make(weights, "dense"), inplace=True, mode=mode) is empty
        assert empty.mask is weights and empty.from_dense_mask is True and empty.is_empty is False

    def test_dtype_is_that_of_the_first(self, mode):
        a = make(torch.tensor([[0.5, 0.0]], dtype=torch.float16), "index")
        b = make(torch.tensor([[0.25, 0.5]]), "index")
        for first in (a, Mask.create_empty_mask((1, 2), torch.float16)):
            merged = first.merge_mask(b, inplace=False, mode=mode)
            assert merged.dtype == torch.float16 and merged.get_dense_mask().dtype == torch.float16
        empty = Mask.create_empty_mask((1, 2), torch.float16)
        assert empty.merge_mask(b, inplace=True, mode=mode).get_dense_mask().dtype == torch.float16

    def test_negative_sums_are_zero(self, mode):
        merged = make(torch.tensor([[-0.5, 0.5]]), "dense").merge_mask(
            make(torch.tensor([[0.25, 0.25]]), "dense"), False, mode)
        assert merged.get_dense_mask().tolist() == [[0.0, 0.75]]

    def test_shapes(self, mode):
        with pytest.raises(ValueError, match=r"Cannot merge masks with different shapes: \(1, 2\) vs \(2, 1\)"):
            make(torch.ones(1, 2), "dense").merge_mask(make(torch.ones(2, 1), "dense"), False, mode)


def test_duplicates_add_up_in_sparse_mode_only():
    double = Mask.create_mask_from_indices(
        (2, 3), torch.tensor([1, 1, 3]), torch.tensor([0, 2, 3]), torch.tensor([0.25, 0.5, 1.0]), torch.float32)
    other = make(torch.tensor([[0.0, 0.125, 0.0], [0.0, 0.0, 0.5]]), "index")
    indices, ptr, data = double.merge_mask(other, inplace=False, mode="sparse").get_index_mask()
    assert indices.tolist() == [1, 3, 5] and ptr.tolist() == [0, 1, 3] and data.tolist() == [0.875, 1.0, 0.5]
    assert double.merge_mask(other, inplace=False).get_dense_mask()[0, 1] == 0.625


def test_one_side_without_entries():
    nothing = Mask.create_mask_from_indices(
        (1, 3), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]), None, torch.float32)
    other = make(torch.tensor([[0.0, 1.5, 0.5]]), "index")
    for a, b in ((nothing, other), (other, nothing)):
        indices, ptr, data = a.merge_mask(b, inplace=False, mode="sparse").get_index_mask()
        assert indices.tolist() == [1, 2] and ptr.tolist() == [0, 2] and data.tolist() == [1.0, 0.5]


def test_a_chain_of_merges():
    masks = [random_weights((1, 2, 3, 64), density, seed) for seed, density in enumerate((0.05, 0.3, 0.9))]
    results = []
    for mode in MODES:
        merged = Mask.create_empty_mask((1, 2, 3, 64))
        for weights in masks:
            merged = merged.merge_mask(make(weights, "index"), inplace=False, mode=mode)
        results.append(merged.get_dense_mask())
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_compiles_without_breaks(mode):
    """Sizes that depend on data included; the backend traces as any other would."""

    def merge_and_apply(x, a, b):
        merged = make(a, "dense").merge_mask(make(b, "dense"), False, mode)
        return merged.apply_inv_mask(x, mode)

    compiled = torch.compile(merge_and_apply, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in (16, 33):
        a, b = random_weights((2, size), 0.5, 1), random_weights((2, size), 0.5, 2)
        x = torch.randn(2, size, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(compiled(x, a, b), merge_and_apply(x, a, b))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_cuda_equals_host(mode):
    a, b = random_weights((2, 3, 16), 0.5, 1), random_weights((2, 3, 16), 0.5, 2)
    x = torch.randn(2, 3, 16)
    merged = make(a.cuda(), "index").merge_mask(make(b.cuda(), "dense"), False, mode)
    assert merged.device.type == "cuda"
    expected = make(a, "index").merge_mask(make(b, "dense"), False, mode)
    torch.testing.assert_close(merged.get_dense_mask().cpu(), expected.get_dense_mask())
    torch.testing.assert_close(merged.apply_inv_mask(x.cuda(), mode).cpu(), expected.apply_inv_mask(x, mode))
