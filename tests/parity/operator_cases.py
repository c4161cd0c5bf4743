"""Arguments for each operator of the namespace, for test_operators.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import torch

from sparse_attention_hub import _core

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FLOAT32 = (torch.float32,)


@dataclass
class Cases:
    """`arguments(dtype)` lists tuples of arguments of one operator."""

    arguments: Callable[[torch.dtype], List[Tuple[Any, ...]]]
    dtypes: Tuple[torch.dtype, ...] = FLOATS


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    """About half zeros, the others in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)).to(dtype)


def integers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _mask_cases() -> Dict[str, Cases]:
    indices = integers(7, 1, 4, 1)
    nothing = integers()

    def data(dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([0.5, 1.0, 0.0, 0.25], dtype=dtype)

    def both_sizes(name_tail: Tuple[Any, ...] = ()) -> Callable[[torch.dtype], List[Tuple[Any, ...]]]:
        return lambda dtype: [
            (indices, data(dtype), *name_tail),
            (nothing, data(dtype)[:0], *name_tail),
        ]

    def dense_pair(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        return [(normal(2, 3, 5, dtype=dtype), weights(2, 3, 5, dtype=dtype)), (normal(4), weights(4, dtype=dtype))]

    def indexed(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        return [(normal(2, 2, 3, dtype=dtype), indices, data(dtype)), (normal(12), nothing, data(dtype)[:0])]

    columns = torch.tensor([[1, 3, 3], [0, 2, 1]])
    padded = torch.tensor([[1, -1, 3], [-1, -1, -1]])
    return {
        "mask_all_equal": Cases(lambda dtype: [(weights(2, 3, dtype=dtype), 1.0)]),
        "mask_apply_dense": Cases(dense_pair),
        "mask_apply_inverse_dense": Cases(dense_pair),
        "mask_apply_index": Cases(indexed),
        "mask_apply_inverse_index": Cases(indexed),
        "mask_count_positive": Cases(lambda dtype: [(weights(2, 3, dtype=dtype),)]),
        "mask_count_index": Cases(both_sizes()),
        "mask_dense_to_index": Cases(
            lambda dtype: [(weights(2, 3, 5, dtype=dtype),), (weights(4, dtype=dtype),), (weights(2, 0, dtype=dtype),)]
        ),
        "mask_index_to_csr": Cases(both_sizes((3, 4))),
        "mask_index_to_dense": Cases(both_sizes(([3, 4],))),
        "mask_merge_dense": Cases(lambda dtype: [(weights(2, 3, dtype=dtype), weights(2, 3, seed=2))]),
        "mask_merge_index": Cases(
            lambda dtype: [
                (indices, data(dtype), integers(0, 4), torch.ones(2), 3, 4),
                (nothing, data(dtype)[:0], integers(4, 0), torch.ones(2), 3, 4),
            ]
        ),
        "mask_row_wise_to_dense": Cases(
            lambda dtype: [
                (columns, normal(2, 3, dtype=dtype), 4),
                (columns.view(1, 2, 3).int(), normal(1, 2, 3, dtype=dtype), 4),
            ]
        ),
        "mask_row_wise_to_index": Cases(
            lambda dtype: [
                (columns, weights(2, 3, dtype=dtype), 4, False),
                (padded, weights(2, 3, dtype=dtype), 4, True),
            ]
        ),
    }


_SEQUENCE = _core.Sequence(
    _core.HostAttention(
        '{"type": "research", "maskers": [{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 3}]}'
    )
)  # a handle is good as long as its sequence lives


def _attend_cases() -> Dict[str, Cases]:
    def arguments(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        q, k, v = (normal(1, heads, n, 8, dtype=dtype, seed=n) for heads, n in ((4, 2), (2, 16), (2, 16)))
        bias = normal(1, 1, 2, 16, dtype=dtype)
        return [
            (_SEQUENCE.handle, q, k, v, None, None, None, None, None, True, 0, None),
            (_SEQUENCE.handle, q, k, v, bias, normal(4), 0.3, 20.0, 8, False, 1, 14),
        ]

    return {"attend": Cases(arguments, (torch.float32, torch.float16, torch.bfloat16))}


CASES: Dict[str, Cases] = {**_attend_cases(), **_mask_cases()}
