"""Mask: which keys each query attends to, and with what inclusion probability.

A mask has a shape `(..., n)`, for attention `(batch, heads, queries, keys)`. Its weights are inclusion probabilities: 1
keeps a key for certain, 0 < p < 1 keeps it as a sampled key that stands for 1/p keys, 0 leaves it out.

This class is the Python hub's: mutable, sharing tensors with whoever made it, of any rank and floating type. Its
arithmetic is C++ (`torch.ops.sparse_attention_hub.mask_*`). The C++ library itself works on immutable masks,
`_core.Mask`; `to_core` and `from_core` convert.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Callable, Optional, Sequence, Tuple, TypeVar, Union

import torch
from torch import Tensor

from ... import _core, _fake_kernels  # noqa: F401  registers the operators

_ops = torch.ops.sparse_attention_hub
_CPU = torch.device("cpu")
_MASK_TYPES = ("dense", "index")

Device = Union[torch.device, str]
_Method = TypeVar("_Method", bound=Callable[..., Any])


class Mask:
    """A weight tensor in one of four representations.

    Exactly one of these flags is set:
      * `is_full`: weight 1 everywhere; nothing is stored.
      * `is_empty`: nothing selected yet; nothing is stored. Attention under it is dense.
      * `from_dense_mask`: the weights are `mask`.
      * `from_index`: `indices` holds positions in the flattened mask, `ptr` where each row's begin, `data` the weights
        (None: all 1).
    Flags say how a mask was made: a dense tensor of ones is not "full", one of zeros not "empty".

    Attributes:
        shape: `(..., n)`, a tuple.
        dtype: Of the weights.
        device: Where they are.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: Optional[Device],
        mask: Optional[Tensor] = None,
        indices: Optional[Tensor] = None,
        ptr: Optional[Tensor] = None,
        data: Optional[Tensor] = None,
        from_dense_mask: bool = False,
        from_index: bool = False,
        is_full: bool = False,
        is_empty: bool = False,
    ) -> None:
        """Takes the tensors as they are; only weights of another type than `dtype` are converted.

        Raises:
            ValueError: Nothing says what the mask holds, or a full or empty one has no device.
        """
        self.shape: Tuple[int, ...] = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.mask: Optional[Tensor] = None
        self.indices: Optional[Tensor] = None
        self.ptr: Optional[Tensor] = None
        self.data: Optional[Tensor] = None
        self.from_dense_mask = False
        self.from_index = False
        self.is_full = False
        self.is_empty = False
        if is_full:
            if device is None:
                raise ValueError("device must be specified for full masks")
            self.is_full = True
        elif is_empty:
            if device is None:
                raise ValueError("device must be specified for empty masks")
            self.is_empty = True
        elif from_dense_mask and mask is not None:
            self.mask = mask.to(dtype)
            self.device = mask.device
            self.from_dense_mask = True
        elif from_index and indices is not None and ptr is not None:
            self.indices = indices
            self.ptr = ptr
            self.data = None if data is None else data.to(dtype)
            self.device = indices.device
            self.from_index = True
        else:
            raise ValueError(
                "Must specify either from_dense_mask with mask, from_index with indices and ptr, is_full=True, or "
                "is_empty=True"
            )

    # Factories.

    @classmethod
    def create_empty_mask(
        cls,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: Optional[Device] = _CPU,
        mask_type: Optional[str] = None,
    ) -> Mask:
        """A mask that selects nothing yet.

        Args:
            shape: `(..., n)`.
            dtype: Of the weights.
            device: Where they would be.
            mask_type: "dense" or "index", from an older call form, which gave it in the place of `device`. Both forms
                can be had from any mask, so it has no effect.

        Raises:
            ValueError: `mask_type` is neither; `device` is None.
        """
        if isinstance(device, str) and not _names_a_device(device):
            mask_type, device = device, _CPU
        if mask_type is not None and mask_type not in _MASK_TYPES:
            raise ValueError(f"mask_type must be 'dense' or 'index', got {mask_type}")
        return cls(shape, dtype, device, is_empty=True)

    @classmethod
    def create_full_mask(
        cls, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Optional[Device] = _CPU
    ) -> Mask:
        """A mask that selects everything with weight 1."""
        return cls(shape, dtype, device, is_full=True)

    @classmethod
    def create_mask_from_indices(
        cls,
        shape: Sequence[int],
        indices: Tensor,
        ptr: Tensor,
        data: Optional[Tensor] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Mask:
        """A mask in index form.

        Args:
            shape: `(..., n)`.
            indices: int64 `(entries,)`, positions in the flattened mask.
            ptr: int64 `(rows + 1,)`, ascending from 0 to `entries`.
            data: `(entries,)` weights; None for all 1.
            dtype: Of the weights.

        Raises:
            ValueError: A size is wrong, or (found out on the host only) a position or pointer.
        """
        rows = math.prod(shape[:-1])
        if ptr.numel() != rows + 1:
            raise ValueError(f"ptr.numel() must be {rows + 1}, got {ptr.numel()}")
        if data is not None and data.numel() != indices.numel():
            raise ValueError(f"data.numel() must be {indices.numel()} as indices.numel(), got {data.numel()}")
        if indices.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_index(indices, ptr, math.prod(shape))
        return cls(shape, dtype, indices.device, indices=indices, ptr=ptr, data=data, from_index=True)

    @classmethod
    def create_mask_from_dense_mask(
        cls, shape: Sequence[int], mask: Tensor, dtype: torch.dtype = torch.float32
    ) -> Mask:
        """A mask of the weights `mask` (bool: 0 and 1). A tensor of the type `dtype` is shared, not copied.

        Raises:
            ValueError: `mask` has another shape.
        """
        if tuple(mask.shape) != tuple(shape):
            raise ValueError(f"mask.shape must be {shape}, got {tuple(mask.shape)}")
        return cls(shape, dtype, mask.device, mask=mask, from_dense_mask=True)

    @classmethod
    def create_from_row_wise_idx(
        cls,
        shape: Sequence[int],
        row_wise_idx: Tensor,
        data: Tensor,
        mask_type: str,
        dtype: torch.dtype = torch.float32,
        use_padding: bool = False,
        mode: str = "dense",
    ) -> Mask:
        """A mask from k columns of each row.

        Args:
            shape: `(..., n)`.
            row_wise_idx: `(..., k)` columns in [0, n).
            data: `(..., k)` their weights.
            mask_type: "dense" or "index": what is asked for; see the two methods that `mode` names.
            dtype: Of the weights.
            use_padding: Columns below 0 stand for nothing (`mode` "sparse" only).
            mode: "dense" goes by `create_from_row_wise_idx_dense`, "sparse" by `create_from_row_wise_idx_sparse`.

        Raises:
            ValueError: A shape, `mask_type` or `mode` is wrong.
        """
        if mode == "sparse":
            if mask_type == "dense":
                warnings.warn('mode "sparse" makes an index mask, which is then made dense', UserWarning, stacklevel=2)
            return cls.create_from_row_wise_idx_sparse(shape, row_wise_idx, data, mask_type, dtype, use_padding)
        if mode == "dense":
            if mask_type == "index":
                warnings.warn('mode "dense" makes a dense mask, whatever mask_type', UserWarning, stacklevel=2)
            return cls.create_from_row_wise_idx_dense(shape, row_wise_idx, data, mask_type, dtype, use_padding)
        raise ValueError(f"Invalid mode: {mode}; it must be 'dense' or 'sparse'")

    @classmethod
    def create_from_row_wise_idx_dense(
        cls,
        shape: Sequence[int],
        row_wise_idx: Tensor,
        data: Tensor,
        mask_type: str,
        dtype: torch.dtype = torch.float32,
        use_padding: bool = False,
    ) -> Mask:
        """As `create_from_row_wise_idx`; the mask is dense whatever `mask_type`.

        Raises:
            ValueError: A shape or `mask_type` is wrong.
            AssertionError: `use_padding` is set.
        """
        _check_row_wise(shape, row_wise_idx, data)
        assert not use_padding, "use_padding is not supported in dense mode; use mode='sparse'"
        _check_mask_type(mask_type)
        dense = _ops.mask_row_wise_to_dense(row_wise_idx, data.to(dtype), shape[-1])
        return cls.create_mask_from_dense_mask(shape, dense, dtype)

    @classmethod
    def create_from_row_wise_idx_sparse(
        cls,
        shape: Sequence[int],
        row_wise_idx: Tensor,
        data: Tensor,
        mask_type: str,
        dtype: torch.dtype = torch.float32,
        use_padding: bool = False,
    ) -> Mask:
        """As `create_from_row_wise_idx`, through the index form; columns that are there twice stay so.

        Raises:
            ValueError: A shape or `mask_type` is wrong.
        """
        _check_row_wise(shape, row_wise_idx, data)
        _check_mask_type(mask_type)
        if row_wise_idx.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_columns(row_wise_idx, shape[-1], use_padding)
        indices, ptr, weights = _ops.mask_row_wise_to_index(row_wise_idx, data.to(dtype), shape[-1], use_padding)
        mask = cls(shape, dtype, indices.device, indices=indices, ptr=ptr, data=weights, from_index=True)
        if mask_type == "index":
            return mask
        return cls.create_mask_from_dense_mask(shape, mask.get_dense_mask(), dtype)

    @classmethod
    def from_core(
        cls, core_mask: _core.Mask, dtype: torch.dtype = torch.float32, device: Optional[Device] = None
    ) -> Mask:
        """The mask of the C++ library as one of this class: empty and full ones keep their flags, others become dense.

        Args:
            core_mask: Of the shape [batch, heads, queries, keys], with weights in float32.
            dtype: Of the new mask's weights.
            device: Where they go; None: where they are.
        """
        target = core_mask.device if device is None else device
        if core_mask.is_full:
            return cls.create_full_mask(core_mask.shape, dtype, target)
        if core_mask.is_empty:
            return cls.create_empty_mask(core_mask.shape, dtype, target)
        dense = core_mask.to_dense().to(device=target, dtype=dtype)
        return cls.create_mask_from_dense_mask(core_mask.shape, dense, dtype)

    def to_core(self) -> _core.Mask:
        """The same mask for the C++ library: a copy, in float32.

        Of positions that an index mask names twice, the last one counts.

        Raises:
            ValueError: The mask has not 4 dimensions, or a weight is not in [0, 1].
        """
        if len(self.shape) != 4:
            raise ValueError(f"only masks [batch, heads, queries, keys] have a core mask, got shape {self.shape}")
        if self.is_full:
            return _core.Mask.full(self.shape, torch.device(self.device or _CPU))
        if self.is_empty:
            return _core.Mask.empty(self.shape, torch.device(self.device or _CPU))
        if self.from_dense_mask:
            return _core.Mask.from_dense(self.get_dense_mask())
        indices, _, data = self.get_index_mask()
        return _core.Mask.from_csr(self.shape, *_ops.mask_index_to_csr(indices, data, self._rows(), self.shape[-1]))

    # What the mask is.

    def is_full_mask(self) -> bool:
        """The flag `is_full`."""
        return self.is_full

    def is_empty_mask(self) -> bool:
        """The flag `is_empty`."""
        return self.is_empty

    def _detect_full_mask(self, only_check_flag: bool = True) -> bool:
        """Whether the mask is full: by its flag, or also by its weights (which waits for the device)."""
        if only_check_flag or self.is_full:
            return self.is_full
        if self.from_dense_mask:
            return bool(_ops.mask_all_equal(self.get_dense_mask(), 1.0))
        if self.from_index and self.indices is not None and self.indices.numel() == math.prod(self.shape):
            return self.data is None or bool(_ops.mask_all_equal(self.data, 1.0))
        return False

    def _detect_empty_mask(self, only_check_flag: bool = True) -> bool:
        """Whether the mask is empty: by its flag, or also by its weights (which waits for the device)."""
        if only_check_flag or self.is_empty:
            return self.is_empty
        if self.from_dense_mask:
            return bool(_ops.mask_all_equal(self.get_dense_mask(), 0.0))
        return self.from_index and self.indices is not None and self.indices.numel() == 0

    def get_density(self) -> float:
        """Share of active positions: above 0 in a dense mask, distinct and not 0 in an index mask."""
        elements = math.prod(self.shape)
        if self.is_full:
            return 1.0
        if self.is_empty or elements == 0:
            return 0.0
        if self.from_dense_mask:
            return int(_ops.mask_count_positive(self.get_dense_mask())) / elements
        indices, _, data = self.get_index_mask()
        return int(_ops.mask_count_index(indices, data)) / elements

    def __repr__(self) -> str:
        return (
            f"Mask(shape={self.shape}, dtype={self.dtype}, from_dense_mask={self.from_dense_mask}, "
            f"from_index={self.from_index}, is_full={self.is_full}, is_empty={self.is_empty})"
        )

    # Conversions.

    def get_dense_mask(self) -> Tensor:
        """The weights, of the mask's shape. A dense mask returns the tensor that it holds: for reading only."""
        if self.is_full:
            return torch.ones(self.shape, dtype=self.dtype, device=self.device)
        if self.is_empty:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if self.from_dense_mask:
            if self.mask is None:
                raise RuntimeError("Dense mask is None")
            return self.mask
        indices, _, data = self.get_index_mask()
        dense: Tensor = _ops.mask_index_to_dense(indices, data, self.shape)
        return dense

    def get_index_mask(self) -> Tuple[Tensor, Tensor, Tensor]:
        """(indices, ptr, data) as in the class's description. An index mask returns what it holds: for reading only."""
        rows = self._rows()
        if self.is_full:
            elements = math.prod(self.shape)
            starts = torch.arange(rows + 1, device=self.device) * (elements // rows if rows else 0)
            ones = torch.ones(elements, dtype=self.dtype, device=self.device)
            return torch.arange(elements, device=self.device), starts, ones
        if self.is_empty:
            nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
            starts = torch.zeros(rows + 1, dtype=torch.int64, device=self.device)
            return nothing, starts, torch.zeros(0, dtype=self.dtype, device=self.device)
        if self.from_dense_mask:
            indices, ptr, data = _ops.mask_dense_to_index(self.get_dense_mask())
            return indices, ptr, data
        if not self.from_index:
            raise RuntimeError("Mask object is in an invalid state")
        if self.indices is None or self.ptr is None:
            raise RuntimeError("Sparse mask indices or ptr is None")
        if self.data is None:
            return self.indices, self.ptr, torch.ones(self.indices.shape, dtype=self.dtype, device=self.device)
        return self.indices, self.ptr, self.data

    # Application.

    def apply_mask(self, input_tensor: Tensor, mode: str = "dense") -> Tensor:
        """`input_tensor` times the weights. A full or an empty mask returns the very tensor.

        Args:
            input_tensor: Of the mask's shape.
            mode: "dense" or "sparse": which representation does the work; the results are equal.

        Raises:
            ValueError: The shape or `mode` is wrong.
        """
        return self._by_mode(mode, self.apply_mask_dense, self.apply_mask_sparse)(input_tensor)

    def apply_mask_dense(self, input_tensor: Tensor) -> Tensor:
        """`apply_mask` by the dense representation."""
        return self._applied_dense(_ops.mask_apply_dense, input_tensor)

    def apply_mask_sparse(self, input_tensor: Tensor) -> Tensor:
        """`apply_mask` by the index representation."""
        return self._applied_index(_ops.mask_apply_index, input_tensor)

    def apply_inv_mask(self, input_tensor: Tensor, mode: str = "dense") -> Tensor:
        """`input_tensor` over (weight + 1e-6) where the weight is not 0, and 0 elsewhere, whatever stands there.

        A full or an empty mask returns the very tensor.

        Args:
            input_tensor: Of the mask's shape.
            mode: "dense" or "sparse": which representation does the work; the results are equal.

        Raises:
            ValueError: The shape or `mode` is wrong.
        """
        return self._by_mode(mode, self.apply_inv_mask_dense, self.apply_inv_mask_sparse)(input_tensor)

    def apply_inv_mask_dense(self, input_tensor: Tensor) -> Tensor:
        """`apply_inv_mask` by the dense representation."""
        return self._applied_dense(_ops.mask_apply_inverse_dense, input_tensor)

    def apply_inv_mask_sparse(self, input_tensor: Tensor) -> Tensor:
        """`apply_inv_mask` by the index representation."""
        return self._applied_index(_ops.mask_apply_inverse_index, input_tensor)

    def _applied_dense(self, operator: Any, input_tensor: Tensor) -> Tensor:
        return input_tensor if self._passes(input_tensor) else operator(input_tensor, self.get_dense_mask())

    def _applied_index(self, operator: Any, input_tensor: Tensor) -> Tensor:
        if self._passes(input_tensor):
            return input_tensor
        indices, _, data = self.get_index_mask()
        result: Tensor = operator(input_tensor, indices, data)
        return result

    @staticmethod
    def _by_mode(mode: str, dense: _Method, sparse: _Method) -> _Method:
        if mode == "dense":
            return dense
        if mode == "sparse":
            return sparse
        raise ValueError(f"Invalid mode: {mode}; it must be 'dense' or 'sparse'")

    # Merging.

    def merge_mask(self, other_mask: Mask, inplace: bool, mode: str = "dense") -> Mask:
        """The sum of both masks' weights, clamped to [0, 1].

        A full mask absorbs. An empty one changes nothing: the other's weights are taken as they are, without a clamp.

        Args:
            other_mask: Of the same shape.
            inplace: Change and return this mask, rather than a new one.
            mode: "dense" or "sparse": the representation of the result, where both masks hold weights.

        Returns:
            A mask of this one's dtype. Where one side is empty it shares the other's tensors.

        Raises:
            ValueError: The shapes differ, or `mode` is wrong.
        """
        return self._by_mode(mode, self.merge_mask_dense, self.merge_mask_sparse)(other_mask, inplace)

    def merge_mask_dense(self, other_mask: Mask, inplace: bool) -> Mask:
        """`merge_mask` to the dense representation."""
        merged = self._merge_flags(other_mask, inplace, sparse=False)
        if merged is not None:
            return merged
        weights = _ops.mask_merge_dense(self.get_dense_mask(), other_mask.get_dense_mask())
        return self._become(self._dense_mask(weights), inplace)

    def merge_mask_sparse(self, other_mask: Mask, inplace: bool) -> Mask:
        """`merge_mask` to the index representation: positions ascending and unique."""
        merged = self._merge_flags(other_mask, inplace, sparse=True)
        if merged is not None:
            return merged
        a, _, a_data = self.get_index_mask()
        b, _, b_data = other_mask.get_index_mask()
        triple = _ops.mask_merge_index(a, a_data, b, b_data, self._rows(), self.shape[-1])
        return self._become(self._index_mask(triple), inplace)

    def _merge_flags(self, other: Mask, inplace: bool, sparse: bool) -> Optional[Mask]:
        """The merged mask where a flag decides it, else None."""
        if self.shape != other.shape:
            raise ValueError(f"Cannot merge masks with different shapes: {self.shape} vs {other.shape}")
        if self.is_full or other.is_full:
            return self._become(Mask.create_full_mask(self.shape, self.dtype, self.device), inplace)
        if self.is_empty and other.is_empty:
            return self if inplace else Mask.create_empty_mask(self.shape, self.dtype, self.device)
        if not (self.is_empty or other.is_empty):
            return None
        if inplace:
            return self._become(other, inplace) if self.is_empty else self
        held = other if self.is_empty else self
        return self._index_mask(held.get_index_mask()) if sparse else self._dense_mask(held.get_dense_mask())

    def _dense_mask(self, weights: Tensor) -> Mask:
        return Mask(self.shape, self.dtype, weights.device, mask=weights, from_dense_mask=True)

    def _index_mask(self, triple: Tuple[Tensor, Tensor, Tensor]) -> Mask:
        indices, ptr, data = triple
        return Mask(self.shape, self.dtype, indices.device, indices=indices, ptr=ptr, data=data, from_index=True)

    def _become(self, other: Mask, inplace: bool) -> Mask:
        """`other`, or in place this mask with what `other` holds in this one's dtype."""
        if not inplace:
            return other
        self.device = other.device
        self.mask = None if other.mask is None else other.mask.to(self.dtype)
        self.indices, self.ptr = other.indices, other.ptr
        self.data = None if other.data is None else other.data.to(self.dtype)
        self.from_dense_mask, self.from_index = other.from_dense_mask, other.from_index
        self.is_full, self.is_empty = other.is_full, other.is_empty
        return self

    def _passes(self, input_tensor: Tensor) -> bool:
        """Whether the mask leaves `input_tensor` as it is; ValueError if it has another shape."""
        if tuple(input_tensor.shape) != self.shape:
            raise ValueError(f"input_tensor.shape must be {self.shape}, got {tuple(input_tensor.shape)}")
        return self.is_full or self.is_empty

    def _rows(self) -> int:
        return math.prod(self.shape[:-1])


def _names_a_device(text: str) -> bool:
    try:
        torch.device(text)
    except RuntimeError:
        return False
    return True


def _check_index(indices: Tensor, ptr: Tensor, elements: int) -> None:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < elements:
        raise ValueError(
            f"indices must be in [0, {elements}), got values from {int(indices.min())} to {int(indices.max())}"
        )
    if int(ptr[0]) != 0 or int(ptr[-1]) != indices.numel() or bool((ptr[1:] < ptr[:-1]).any()):
        raise ValueError(f"ptr must ascend from 0 to indices.numel() = {indices.numel()}, got {ptr.tolist()}")


def _check_columns(columns: Tensor, n: int, use_padding: bool) -> None:
    if columns.numel() and (int(columns.max()) >= n or (not use_padding and int(columns.min()) < 0)):
        raise ValueError(
            f"row_wise_idx must be in [0, {n}), got values from {int(columns.min())} to {int(columns.max())}"
        )


def _check_mask_type(mask_type: str) -> None:
    if mask_type not in _MASK_TYPES:
        raise ValueError(f"type must be 'index' or 'dense', got {mask_type}")


def _check_row_wise(shape: Sequence[int], row_wise_idx: Tensor, data: Tensor) -> None:
    if len(shape) < 1:
        raise ValueError("shape must have at least one dimension")
    if row_wise_idx.dim() < 1 or row_wise_idx.shape[-1] < 1:
        raise ValueError("row_wise_idx must have at least one column")
    expected = (*shape[:-1], row_wise_idx.shape[-1])
    if tuple(row_wise_idx.shape) != expected:
        raise ValueError(f"row_wise_idx.shape must be {expected}, got {tuple(row_wise_idx.shape)}")
    if data.shape != row_wise_idx.shape:
        raise ValueError(
            f"data.shape must match row_wise_idx.shape {tuple(row_wise_idx.shape)}, got {tuple(data.shape)}"
        )
