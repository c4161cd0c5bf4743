"""Mask: construction, flags, conversions, density, and the way to the C++ library and back."""

from __future__ import annotations

import pytest
import torch

from sparse_attention_hub import _core
from sparse_attention_hub.sparse_attention.utils import Mask

CPU = torch.device("cpu")


def dense(values, dtype=torch.float32):
    weights = torch.tensor(values, dtype=dtype)
    return Mask.create_mask_from_dense_mask(tuple(weights.shape), weights, dtype)


def index(shape, indices, ptr, data=None, dtype=torch.float32):
    data = None if data is None else torch.tensor(data)
    return Mask.create_mask_from_indices(shape, torch.tensor(indices), torch.tensor(ptr), data, dtype)


def flags(mask):
    return mask.from_dense_mask, mask.from_index, mask.is_full, mask.is_empty


class TestConstructor:
    def test_first_matching_case_wins(self):
        weights = torch.ones(2, 3)
        assert flags(Mask((2, 3), torch.float32, CPU, mask=weights, from_dense_mask=True, is_full=True)) == (
            False, False, True, False)
        assert flags(Mask((2, 3), torch.float32, CPU, is_empty=True)) == (False, False, False, True)
        assert flags(Mask((2, 3), torch.float32, None, mask=weights, from_dense_mask=True)) == (
            True, False, False, False)

    @pytest.mark.parametrize("kind", ["full", "empty"])
    def test_flags_need_a_device(self, kind):
        with pytest.raises(ValueError, match=f"device must be specified for {kind} masks"):
            Mask((2, 3), torch.float32, None, **{f"is_{kind}": True})

    def test_something_must_be_given(self):
        with pytest.raises(ValueError, match="Must specify either from_dense_mask with mask"):
            Mask((2, 3), torch.float32, CPU)
        with pytest.raises(ValueError, match="Must specify either"):
            Mask((2, 3), torch.float32, CPU, indices=torch.tensor([0]), from_index=True)

    def test_tensor_of_the_dtype_is_shared(self):
        weights = torch.zeros(2, 3)
        mask = Mask.create_mask_from_dense_mask((2, 3), weights, torch.float32)
        assert mask.mask is weights and mask.get_dense_mask() is weights
        assert Mask.create_mask_from_dense_mask((2, 3), weights, torch.float64).mask.dtype == torch.float64

    def test_ones_are_not_full_and_zeros_not_empty(self):
        ones, zeros = dense([[1.0, 1.0]]), dense([[0.0, 0.0]])
        assert ones.is_full_mask() is False and zeros.is_empty_mask() is False
        assert ones._detect_full_mask() is False and ones._detect_full_mask(only_check_flag=False) is True
        assert zeros._detect_empty_mask() is False and zeros._detect_empty_mask(only_check_flag=False) is True
        assert index((1, 2), [0, 1], [0, 2])._detect_full_mask(False) is True
        assert index((1, 2), [0, 1], [0, 2], [1.0, 0.5])._detect_full_mask(False) is False
        assert index((1, 2), [], [0, 0])._detect_empty_mask(False) is True

    def test_shape_is_a_tuple(self):
        assert Mask.create_full_mask([2, 3], torch.float32, CPU).shape == (2, 3)
        assert isinstance(Mask.create_full_mask(torch.Size([2, 3])).shape, tuple)

    def test_bool_weights(self):
        mask = Mask.create_mask_from_dense_mask((1, 2), torch.tensor([[True, False]]), torch.bfloat16)
        assert torch.equal(mask.get_dense_mask(), torch.tensor([[1, 0]], dtype=torch.bfloat16))


class TestFactories:
    def test_older_call_forms(self):
        empty = Mask.create_empty_mask((2, 3), torch.float16, "index")
        assert empty.is_empty is True and empty.dtype == torch.float16 and torch.device(empty.device) == CPU
        assert Mask.create_empty_mask((2, 3), mask_type="dense").is_empty is True
        assert Mask.create_full_mask((2, 3)).dtype == torch.float32
        assert Mask.create_mask_from_dense_mask((1, 2), torch.ones(1, 2)).dtype == torch.float32
        with pytest.raises(ValueError, match="mask_type must be 'dense' or 'index', got other"):
            Mask.create_empty_mask((2, 3), torch.float32, mask_type="other")
        with pytest.raises(ValueError, match="mask_type must be 'dense' or 'index', got nothing"):
            Mask.create_empty_mask((2, 3), torch.float32, "nothing")

    def test_dense_shape(self):
        with pytest.raises(ValueError, match=r"mask.shape must be \(2, 3\), got \(3, 2\)"):
            Mask.create_mask_from_dense_mask((2, 3), torch.ones(3, 2), torch.float32)

    def test_index_sizes(self):
        with pytest.raises(ValueError, match=r"ptr.numel\(\) must be 3, got 2"):
            index((2, 3), [0], [0, 1])
        with pytest.raises(ValueError, match=r"data.numel\(\) must be 2"):
            index((2, 3), [0, 4], [0, 1, 2], [1.0])

    @pytest.mark.parametrize("indices", [[0, 6], [-1, 0]])
    def test_index_range(self, indices):
        with pytest.raises(ValueError, match=r"indices must be in \[0, 6\)"):
            index((2, 3), indices, [0, 1, 2])

    @pytest.mark.parametrize("ptr", [[1, 1, 2], [0, 1, 3], [0, 3, 2]])
    def test_pointers(self, ptr):
        with pytest.raises(ValueError, match="ptr must ascend from 0"):
            index((2, 3), [0, 4], ptr)

    def test_data_takes_the_masks_dtype(self):
        mask = index((1, 3), [0, 2], [0, 2], [0.5, 0.25], dtype=torch.float16)
        assert mask.get_dense_mask().dtype == torch.float16
        assert mask.get_dense_mask().tolist() == [[0.5, 0.0, 0.25]]


class TestRowWise:
    SHAPE = (2, 2, 5)
    IDX = torch.tensor([[[0, 3], [1, 4]], [[2, 0], [4, 4]]])
    DATA = torch.tensor([[[0.5, 1.0], [0.25, 1.0]], [[0.75, 0.5], [0.25, 0.5]]])

    def expected(self):
        out = torch.zeros(self.SHAPE)
        for b in range(2):
            for r in range(2):
                for k in range(2):
                    out[b, r, self.IDX[b, r, k]] = self.DATA[b, r, k]  # the later one stays
        return out

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize("mode", ["dense", "sparse"])
    @pytest.mark.parametrize("mask_type", ["dense", "index"])
    def test_values(self, mode, mask_type):
        mask = Mask.create_from_row_wise_idx(self.SHAPE, self.IDX, self.DATA, mask_type, torch.float32, mode=mode)
        assert torch.equal(mask.get_dense_mask(), self.expected())
        assert mask.from_index is (mode == "sparse" and mask_type == "index")

    def test_unusual_pairs_warn(self):
        with pytest.warns(UserWarning):
            Mask.create_from_row_wise_idx(self.SHAPE, self.IDX, self.DATA, "index", torch.float32)
        with pytest.warns(UserWarning):
            Mask.create_from_row_wise_idx(self.SHAPE, self.IDX, self.DATA, "dense", torch.float32, mode="sparse")

    def test_index_triple(self):
        mask = Mask.create_from_row_wise_idx_sparse((2, 4), torch.tensor([[3, 0], [1, 1]]), torch.ones(2, 2), "index")
        indices, ptr, data = mask.get_index_mask()
        assert indices.tolist() == [3, 0, 5, 5] and ptr.tolist() == [0, 2, 4] and data.tolist() == [1.0] * 4

    def test_padding(self):
        columns = torch.tensor([[1, -1, 3], [-1, -1, -1], [0, 2, -1]])
        data = torch.arange(9.0).reshape(3, 3) / 10
        mask = Mask.create_from_row_wise_idx((3, 4), columns, data, "index", torch.float32, True, "sparse")
        indices, ptr, weights = mask.get_index_mask()
        assert indices.tolist() == [1, 3, 8, 10] and ptr.tolist() == [0, 2, 2, 4]
        assert torch.equal(weights, data.reshape(-1)[[0, 2, 6, 7]])
        with pytest.raises(AssertionError):
            Mask.create_from_row_wise_idx((3, 4), columns, data, "dense", torch.float32, True)

    def test_errors(self):
        make = Mask.create_from_row_wise_idx
        one = torch.zeros(2, 1, dtype=torch.int64)
        with pytest.raises(ValueError, match="shape must have at least one dimension"):
            make((), one, torch.ones(2, 1), "dense", torch.float32)
        with pytest.raises(ValueError, match="row_wise_idx must have at least one column"):
            make((2, 4), torch.zeros(2, 0, dtype=torch.int64), torch.ones(2, 0), "dense", torch.float32)
        with pytest.raises(ValueError, match=r"row_wise_idx.shape must be \(3, 1\), got \(2, 1\)"):
            make((3, 4), one, torch.ones(2, 1), "dense", torch.float32)
        with pytest.raises(ValueError, match="data.shape must match row_wise_idx.shape"):
            make((2, 4), one, torch.ones(2, 2), "dense", torch.float32)
        with pytest.raises(ValueError, match="type must be 'index' or 'dense', got x"):
            make((2, 4), one, torch.ones(2, 1), "x", torch.float32)
        with pytest.raises(ValueError, match="Invalid mode: x"):
            make((2, 4), one, torch.ones(2, 1), "dense", torch.float32, mode="x")
        with pytest.raises(ValueError, match=r"row_wise_idx must be in \[0, 4\)"):
            make((2, 4), one + 4, torch.ones(2, 1), "index", torch.float32, mode="sparse")


class TestConversions:
    def test_flag_masks(self):
        full, empty = Mask.create_full_mask((2, 3)), Mask.create_empty_mask((2, 3))
        assert torch.equal(full.get_dense_mask(), torch.ones(2, 3))
        assert torch.equal(empty.get_dense_mask(), torch.zeros(2, 3))
        assert [t.tolist() for t in full.get_index_mask()] == [[0, 1, 2, 3, 4, 5], [0, 3, 6], [1.0] * 6]
        assert [t.tolist() for t in empty.get_index_mask()] == [[], [0, 0, 0], []]
        assert full.mask is None and full.indices is None and empty.mask is None and empty.indices is None

    def test_dense_to_index(self):
        indices, ptr, data = dense([[0.0, 0.5, 0.0], [0.25, 0.0, 1.0]]).get_index_mask()
        assert indices.tolist() == [1, 3, 5] and ptr.tolist() == [0, 1, 3] and data.tolist() == [0.5, 0.25, 1.0]

    def test_view_that_is_not_contiguous(self):
        weights = torch.tensor([[0.0, 1.0], [0.5, 0.0]]).t()
        indices, ptr, data = Mask.create_mask_from_dense_mask((2, 2), weights, torch.float32).get_index_mask()
        assert indices.tolist() == [1, 2] and ptr.tolist() == [0, 1, 2] and data.tolist() == [0.5, 1.0]

    def test_duplicates_last_wins(self):
        mask = index((1, 3), [1, 1, 0], [0, 3], [0.5, 0.25, 1.0])
        assert mask.get_dense_mask().tolist() == [[1.0, 0.25, 0.0]]

    def test_stored_tensors_come_back(self):
        mask = index((2, 3), [0, 4], [0, 1, 2])
        indices, ptr, data = mask.get_index_mask()
        assert indices is mask.indices and ptr is mask.ptr and data.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 5), (1, 2, 3, 4), (2, 0, 3), (2, 3, 0)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_round_trip(self, shape, dtype):
        torch.manual_seed(0)
        weights = (torch.rand(shape) * (torch.rand(shape) < 0.5)).to(dtype)
        there = Mask.create_mask_from_dense_mask(shape, weights, dtype).get_index_mask()
        assert there[1].numel() == int(torch.tensor(shape[:-1]).prod()) + 1
        assert torch.equal(Mask.create_mask_from_indices(shape, *there, dtype).get_dense_mask(), weights)

    def test_invalid_state(self):
        mask = dense([[1.0]])
        mask.mask = None
        with pytest.raises(RuntimeError, match="Dense mask is None"):
            mask.get_dense_mask()
        mask.from_dense_mask = False
        with pytest.raises(RuntimeError, match="Mask object is in an invalid state"):
            mask.get_index_mask()
        mask.from_index = True
        with pytest.raises(RuntimeError, match="Sparse mask indices or ptr is None"):
            mask.get_dense_mask()


class TestDensityAndText:
    def test_density(self):
        assert Mask.create_full_mask((2, 3)).get_density() == 1.0
        assert Mask.create_empty_mask((2, 3)).get_density() == 0.0
        assert dense([[0.0, -1.0, 0.5], [1.0, 0.0, 0.0]]).get_density() == 2 / 6
        assert isinstance(dense([[1.0]]).get_density(), float)

    def test_index_density_counts_distinct_active_positions(self):
        assert index((2, 3), [0, 0, 4, 5], [0, 2, 4], [0.5, 0.5, 1.0, 0.0]).get_density() == 2 / 6

    def test_repr(self):
        assert repr(Mask.create_full_mask((2, 3))) == (
            "Mask(shape=(2, 3), dtype=torch.float32, from_dense_mask=False, from_index=False, is_full=True, "
            "is_empty=False)")


class TestCore:
    SHAPE = (1, 2, 2, 4)

    def test_flags_stay(self):
        assert Mask.create_full_mask(self.SHAPE).to_core().is_full
        assert Mask.create_empty_mask(self.SHAPE).to_core().is_empty
        assert flags(Mask.from_core(_core.Mask.full(self.SHAPE), torch.float16)) == (False, False, True, False)
        empty = Mask.from_core(_core.Mask.empty(self.SHAPE), torch.float16)
        assert flags(empty) == (False, False, False, True) and empty.dtype == torch.float16

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_dense(self, dtype):
        torch.manual_seed(0)
        weights = (torch.rand(self.SHAPE) * (torch.rand(self.SHAPE) < 0.5)).to(dtype)
        core = Mask.create_mask_from_dense_mask(self.SHAPE, weights, dtype).to_core()
        assert core.shape == self.SHAPE and torch.equal(core.to_dense(), weights.float())
        back = Mask.from_core(core, dtype)
        assert back.from_dense_mask is True and torch.equal(back.get_dense_mask(), weights)

    def test_index_in_any_order_with_duplicates_and_zeros(self):
        mask = index(self.SHAPE, [3, 1, 1, 7, 4, 12], [0, 3, 5, 5, 6], [1.0, 0.5, 0.25, 0.75, 0.0, 0.5])
        indptr, columns, weights = mask.to_core().to_csr()
        assert indptr.tolist() == [0, 2, 3, 3, 4]
        assert columns.tolist() == [1, 3, 3, 0] and weights.tolist() == [0.25, 1.0, 0.75, 0.5]
        assert torch.equal(mask.to_core().to_dense(), mask.get_dense_mask())
        back = Mask.from_core(mask.to_core(), torch.float32)
        assert back.from_dense_mask is True and torch.equal(back.get_dense_mask(), mask.get_dense_mask())

    def test_core_mask_is_a_copy(self):
        weights = torch.zeros(self.SHAPE)
        core = Mask.create_mask_from_dense_mask(self.SHAPE, weights, torch.float32).to_core()
        weights.fill_(1)
        assert core.density() == 0.0

    def test_errors(self):
        with pytest.raises(ValueError, match=r"only masks \[batch, heads, queries, keys\]"):
            dense([[1.0]]).to_core()
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            Mask.create_mask_from_dense_mask(self.SHAPE, torch.full(self.SHAPE, 2.0), torch.float32).to_core()
