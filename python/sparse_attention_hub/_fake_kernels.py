"""Fake kernels of the operators whose output sizes depend on data.

`torch.compile` and fake tensors need to know types and ranks, and take a new symbol for such a size. All other
operators of the namespace bring theirs along from C++.
"""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from . import _core  # noqa: F401  registers the operators

_NAMESPACE = "sparse_attention_hub::"
_Triple = Tuple[Tensor, Tensor, Tensor]


def _new_size() -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()


@torch.library.register_fake(_NAMESPACE + "mask_count_index")
def _count_index(indices: Tensor, data: Tensor) -> Tensor:
    return indices.new_empty(())


@torch.library.register_fake(_NAMESPACE + "mask_dense_to_index")
def _dense_to_index(mask: Tensor) -> _Triple:
    entries = _new_size()
    rows = 1
    for size in mask.shape[:-1]:
        rows = rows * size
    return (
        mask.new_empty(entries, dtype=torch.int64),
        mask.new_empty(rows + 1, dtype=torch.int64),
        mask.new_empty(entries),
    )


@torch.library.register_fake(_NAMESPACE + "mask_index_to_csr")
def _index_to_csr(indices: Tensor, data: Tensor, rows: int, n: int) -> _Triple:
    entries = _new_size()
    return (
        indices.new_empty(rows + 1),
        indices.new_empty(entries),
        data.new_empty(entries, dtype=torch.float32),
    )


@torch.library.register_fake(_NAMESPACE + "mask_merge_index")
def _merge_index(a: Tensor, a_data: Tensor, b: Tensor, b_data: Tensor, rows: int, n: int) -> _Triple:
    entries = _new_size()
    return a.new_empty(entries), a.new_empty(rows + 1), a_data.new_empty(entries)


@torch.library.register_fake(_NAMESPACE + "mask_row_wise_to_index")
def _row_wise_to_index(columns: Tensor, data: Tensor, n: int, padding: bool) -> _Triple:
    rows = 1
    for size in columns.shape[:-1]:
        rows = rows * size
    entries = _new_size() if padding else rows * columns.shape[-1]
    return (
        columns.new_empty(entries, dtype=torch.int64),
        columns.new_empty(rows + 1, dtype=torch.int64),
        data.new_empty(entries),
    )
