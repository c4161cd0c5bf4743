"""Arguments for each operator of the namespace, for test_operators.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import torch

from sparse_attention_hub import _core

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NARROW = (torch.float32, torch.float16, torch.bfloat16)


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

    return {"attend": Cases(arguments, NARROW)}


def _efficient_cases() -> Dict[str, Cases]:
    def decode(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        q, k, v = (normal(2, heads, n, d, dtype=dtype, seed=d) for heads, n, d in ((4, 1, 8), (2, 16, 8), (2, 16, 6)))
        by_head = torch.tensor([1, 4, 15]).expand(2, 4, 3)
        by_group = torch.arange(10, dtype=torch.int32).view(1, 1, 10).repeat(2, 2, 1)
        flat, offsets = integers(3, 7, 0, 1, 2, 15, 99), integers(0, 2, 2, 3, 6)
        return [
            (q, k, v),
            (q, k, v, None, None, None, None, integers(16, 0), 0.3, 20.0, normal(4, dtype=dtype)),
            (q, k, v, by_head, None, 1 / weights(2, 4, 3, dtype=dtype).add(0.1)),
            (q, k, v, by_group, None, None, None, integers(10, 16).int()),
            (q, k, v, by_group, None, None, integers(10, 11, 11, 16).view(1, 2, 2).expand(2, 2, 2)),
            (q, k[:, :1].expand_as(k), v[..., 1:5], None, None, None, integers(0, 3, 9, 9).int().view(2, 1, 2)),
            (q, k, v, flat, offsets, torch.arange(1, 8, dtype=dtype)),
            (q[:0], k[:0], v[:0]),
            (q, k[:, :, :0], v[:, :, :0], by_head[..., :0]),
        ]

    def states(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        return [
            (normal(1, 4, 2, 6, dtype=dtype), normal(1, 4, 2), normal(1, 4, 2, 6, dtype=dtype, seed=2), normal(1, 4, 2))
        ]

    return {
        "efficient_decode": Cases(decode, NARROW),
        "exact_top_k": Cases(
            lambda dtype: [(normal(2, 3, 9, dtype=dtype), k) for k in (0, 4, 9)] + [(normal(0, 5, dtype=dtype), 2)],
            NARROW,
        ),
        "merge_attention_states": Cases(states, NARROW),
    }


def _attention_cases() -> Dict[str, Cases]:
    shape = (1, 4, 3, 9)

    def step(dtype: torch.dtype) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return normal(1, 4, 3, 8, dtype=dtype), normal(1, 2, 9, 8, dtype=dtype), normal(1, 2, 9, 6, dtype=dtype)

    def logits(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        q, k, _ = step(dtype)
        return [(q, k, None, 0.3), (q, k, normal(1, 1, 3, 9, dtype=dtype), 0.3)]

    def longer(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        q, k, _ = step(dtype)
        return [*logits(dtype), (q, k, normal(1, 1, 3, 11, dtype=dtype), 0.3)]

    def dense(dtype: torch.dtype) -> List[Tuple[Any, ...]]:
        q, k, v = step(dtype)
        return [(q, k, v, None, 0.3, 0.0), (q, k, v, normal(1, 1, 3, 11, dtype=dtype), 0.3, 0.0)]

    exponentials = normal(*shape).exp()
    row = normal(1, 4, 3, 1)
    sampled = (torch.tensor([2, 0, 3]).view(1, 3, 1, 1), integers(1, 4, 2, 2, 0))
    return {
        "add_sinks": Cases(
            lambda dtype: [(normal(1, 4, 3, 6), row.exp(), exponentials, row, normal(4, dtype=dtype))]
        ),
        "attention_logits": Cases(logits, NARROW),
        "attention_row_maximum": Cases(longer),
        "dense_output": Cases(dense),
        "divide_rows": Cases(lambda dtype: [(normal(*shape, dtype=dtype), row.relu().to(dtype))]),
        "masked_exponentials": Cases(
            lambda dtype: [
                case
                for arguments in longer(dtype)
                for case in ((*arguments, None), (*arguments, weights(*shape, dtype=dtype)))
            ]
        ),
        "remaining_mass": Cases(
            lambda dtype: [(*case, weights(*shape, dtype=dtype)) for case in logits(dtype)], NARROW
        ),
        "row_sums": Cases(lambda dtype: [(normal(*shape, dtype=dtype),)]),
        "sampled_index": Cases(lambda dtype: [(sampled[0], weights(1, 3, 1, 1, dtype=dtype), sampled[1], 6)]),
        "top_k_outside": Cases(
            lambda dtype: [(normal(*shape, dtype=dtype), weights(*shape, dtype=dtype), k) for k in (0, 2, 9)]
        ),
        "top_p_thresholds": Cases(lambda dtype: [(normal(*shape, dtype=dtype).exp(), p) for p in (0.0, 0.5, 1.0)]),
        "weighted_sums": Cases(
            lambda dtype: [(exponentials, normal(1, heads, 9, 6, dtype=dtype)) for heads in (2, 4)]
        ),
    }


def _index_cases() -> Dict[str, Cases]:
    def groups(dtype: torch.dtype) -> torch.Tensor:
        return normal(2, 9, 4, dtype=dtype)

    codes = torch.arange(18).view(2, 9) % 4  # the cluster 4 is empty
    pages = torch.tensor([[[[0, 2], [1, 1]]]])
    planes = normal(3, 2, 8)
    buckets = torch.arange(1 * 2 * 3 * 7).view(1, 2, 3, 7) % 4
    allowed = weights(1, 2, 4, 7) == 0
    key_codes = torch.arange(1 * 5 * 2 * 2).view(1, 5, 2, 2) % 3
    return {
        "allowed_keys": Cases(lambda dtype: [(normal(1, 1, 3, 9, dtype=dtype), 9), (allowed, 5)]),
        "k_means_assign": Cases(lambda dtype: [(groups(dtype), normal(2, 5, 4, dtype=dtype, seed=2))]),
        "k_means_means": Cases(lambda dtype: [(groups(dtype), codes, 5)]),
        "k_means_settle": Cases(
            lambda dtype: [
                (groups(dtype), normal(2, 5, 4), torch.ones(2, 5, 1), None, normal(2, 5, 4, seed=3)),
                (groups(dtype), normal(2, 5, 4), weights(2, 5, 1), codes[:, :5], normal(2, 5, 4, seed=3)),
            ]
        ),
        "pq_inner_product_to_l2": Cases(lambda dtype: [(groups(dtype),)]),
        "pq_reconstruction_error": Cases(
            lambda dtype: [
                (normal(1, 2, 5, 8, dtype=dtype), normal(1, 2, 2, 3, width, dtype=dtype), key_codes, 4)
                for width in (4, 5)
            ]
        ),
        "pseudo_quantize": Cases(lambda dtype: [(normal(2, 3, 8, dtype=dtype), bits) for bits in (1, 4, 16)]),
        "quest_page_min_max": Cases(lambda dtype: [(normal(1, 2, n, 4, dtype=dtype), 4, 3) for n in (12, 9)]),
        "quest_page_scores": Cases(
            lambda dtype: [
                (normal(1, 2, 3, 4, dtype=dtype), normal(1, 2, 5, 4, dtype=dtype), normal(1, 2, 5, 4, dtype=dtype, seed=2))
            ]
        ),
        "quest_pages_to_tokens": Cases(lambda dtype: [(pages, 5, 2, dtype), (pages[..., :0], 5, 2, dtype)]),
        "quest_pages_valid": Cases(lambda dtype: [(weights(1, 2, 3, n, dtype=dtype), 4, 3) for n in (12, 9)]),
        "socket_corners": Cases(lambda dtype: [(normal(0, dtype=dtype), 3)]),
        "socket_hard_hash": Cases(lambda dtype: [(normal(1, 2, 7, 8, dtype=dtype), planes.to(dtype))]),
        "socket_pack_bits": Cases(
            lambda dtype: [(weights(2, width, dtype=dtype),) for width in (3, 16, 40)] + [(allowed,)]
        ),
        "socket_soft_hash": Cases(
            lambda dtype: [(normal(1, 2, 3, 8, dtype=dtype), planes.to(dtype), normal(2, 4, dtype=dtype).sign(), 0.3)]
        ),
        "socket_top_collisions": Cases(
            lambda dtype: [
                (weights(1, 2, 4, 3, 4, dtype=dtype), buckets.to(kind), normal(1, 2, 7, dtype=dtype).abs(), allowed, m, 3)
                for kind in (torch.int16, torch.int64)
                for m in (0, 4)
            ]
        ),
        "squared_distances": Cases(lambda dtype: [(groups(dtype), normal(2, 5, 4, dtype=dtype, seed=2))]),
    }


def _hub_method_cases() -> Dict[str, Cases]:
    codes = torch.arange(1 * 7 * 2 * 3).view(1, 7, 2, 3) % 5
    words = torch.arange(-9, 9).view(1, 2, 3, 3)
    drawn = torch.arange(1 * 4 * 3 * 5).view(1, 4, 3, 5) % 9

    def pair(dtype: torch.dtype) -> Tuple[torch.Tensor, torch.Tensor]:
        return normal(1, 2, 7, 6, dtype=dtype), normal(1, 2, 3, 6, dtype=dtype, seed=2)

    def mlp(dtype: torch.dtype, *widths: int) -> List[Any]:
        shapes = list(zip(widths, widths[1:]))
        return [[normal(4, *shape, dtype=dtype) for shape in shapes], [normal(4, shape[1], dtype=dtype) for shape in shapes]]

    return {
        "adaptive_budget": Cases(
            lambda dtype: [(normal(1, 4, 3, 1, dtype=dtype).abs(), normal(1, 4, 3, 1, dtype=dtype).exp(), 1.6, 0.2, 50)]
        ),
        "collision_probability": Cases(lambda dtype: [(*pair(dtype), 3, 5)]),
        "hash_signs": Cases(
            lambda dtype: [
                (normal(2, 2, 5, 6, dtype=dtype), *mlp(dtype, 6, 8, 3), "gelu"),
                (normal(2, 4, 5, 6, dtype=dtype), *mlp(torch.float32, 6, 3), "relu"),
            ]
        ),
        "mips_transform": Cases(lambda dtype: [pair(dtype)]),
        "pack_signs": Cases(lambda dtype: [(normal(2, 3, 12, dtype=dtype), 4), (normal(2, 64, dtype=dtype), 64)]),
        "pq_add_norm_channel": Cases(
            lambda dtype: [(normal(2, 9, 4, dtype=dtype), 30 * torch.ones(2, 1, 1, dtype=dtype))]
        ),
        "pq_scores": Cases(
            lambda dtype: [
                (normal(1, 4, 2, 12, dtype=dtype), normal(1, 2, 3, 5, width, dtype=dtype), codes) for width in (4, 5)
            ]
        ),
        "projection_signs": Cases(lambda dtype: [(normal(1, 2, 7, 6, dtype=dtype), normal(6, 8, dtype=dtype))]),
        "sample_deviation": Cases(lambda dtype: [(normal(1, 4, 3, 9, dtype=dtype).exp(), drawn)]),
        "shared_buckets": Cases(lambda dtype: [(words, words[:, :, :2])]),
        "shared_signs": Cases(lambda dtype: [(*(x.sign() for x in pair(dtype)), 3)]),
        "signature_scores": Cases(
            lambda dtype: [
                (*reversed(pair(dtype)), None, weights(1, 2, 3, 7)),
                (*reversed(pair(dtype)), normal(1, 1, 3, 9, dtype=dtype), weights(1, 2, 3, 7, dtype=dtype)),
            ]
        ),
        "unpack_signs": Cases(lambda dtype: [(words, 4, 11), (words.to(torch.int32), 32, 70)]),
    }


CASES: Dict[str, Cases] = {
    **_attend_cases(),
    **_attention_cases(),
    **_efficient_cases(),
    **_hub_method_cases(),
    **_index_cases(),
    **_mask_cases(),
}
