"""Socket: soft collisions of queries with the hash buckets of keys.

L tables have P random planes each. A key lies in one bucket of a table, named by the sides of the planes it is on; a query
is in each of the 2^P buckets with a probability. A key's score is the query's probability of its bucket, summed over the
tables, times the length of its value.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ....... import _core  # noqa: F401  registers the operators
from .attention_mask import allowed_keys

_ops = torch.ops.sparse_attention_hub


def get_hyper_planes(
    cache: Dict[Any, Tensor],
    D: int,
    L: int,
    P: int,
    device: torch.device,
    dtype: torch.dtype,
    rng: Optional[torch.Generator] = None,
) -> Tensor:
    """Standard normal planes [L, P, D], drawn in float32 once for each combination of the arguments.

    Args:
        cache: Where they are kept.
        D: Dim of keys and queries.
        L: Tables.
        P: Planes of a table.
        device: Where they are drawn.
        dtype: Of the result.
        rng: A generator of `device`; None: torch's global one.
    """
    name = ("planes", D, torch.device(device), dtype, L, P)
    if name not in cache:
        cache[name] = torch.randn((L, P, D), device=device, dtype=torch.float32, generator=rng).to(dtype)
    return cache[name]


def get_protos_T(cache: Dict[Any, Tensor], P: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The corners [P, 2^P] that buckets stand for: all vectors of -1 and 1, the first coordinate slowest, -1 first.

    Args:
        cache: Where they are kept.
        P: Planes of a table, 1 to 24.
        device: Where they go.
        dtype: Of the result.

    Raises:
        ValueError: `P` is out of range.
    """
    if not 1 <= P <= 24:
        raise ValueError(f"P must be in [1, 24], since a table has 2^P entries, got {P}")
    name = ("corners", P, torch.device(device), dtype)
    if name not in cache:
        cache[name] = _ops.socket_corners(torch.empty(0, device=device, dtype=dtype), P)
    return cache[name]


def pack_bits(bits: Tensor) -> Tensor:
    """Numbers of bits, the first of which is the highest.

    Args:
        bits: [..., P], bool or numbers of which 0 is no bit; P in [1, 63].

    Returns:
        [...]: int16 of up to 15 bits, else int32 of up to 31, else int64.
    """
    numbers: Tensor = _ops.socket_pack_bits(bits)
    return numbers


def hard_hash(tensor: Tensor, planes: Tensor) -> Tensor:
    """The bucket of each vector in each table; a vector in a plane is on its positive side.

    Args:
        tensor: [batch, heads, n, D].
        planes: [L, P, D].

    Returns:
        [batch, heads, L, n], of the type that `pack_bits` has.

    Raises:
        ValueError: The shapes do not fit.
    """
    buckets: Tensor = _ops.socket_hard_hash(tensor, planes)
    return buckets


def soft_hash(queries: Tensor, planes: Tensor, protos_T: Tensor, tau: float = 1.0) -> Tensor:
    """Probabilities of buckets: softmax over corners of (tanh(q . plane) / sqrt(D)) . corner / tau.

    Args:
        queries: [batch, heads, queries, D].
        planes: [L, P, D].
        protos_T: [P, 2^P], see `get_protos_T`.
        tau: The lower, the harder.

    Returns:
        [batch, heads, queries, L, 2^P], of the queries' type.

    Raises:
        ValueError: `tau` is not above 0.
    """
    if not tau > 0:
        raise ValueError(f"tau must be > 0, got {tau}")
    probabilities: Tensor = _ops.socket_soft_hash(queries, planes, protos_T, float(tau))
    return probabilities


def attention_mask_to_allowed_prob(attention_mask: Tensor, N: int) -> Tensor:
    """1 at the keys that a mask allows, 0 at others; see `allowed_keys`, whose meaning of bool masks it has."""
    return allowed_keys(attention_mask, N)


def topk_soft_collision_scores_blockwise(
    q_probs: Tensor, key_buckets: Tensor, v_mag: Tensor, allowed_bool: Tensor, M: int, block: int = 4096
) -> Tuple[Tensor, Tensor]:
    """The M keys with the highest scores, without all scores in memory at once.

    Args:
        q_probs: [batch, heads, queries, L, 2^P].
        key_buckets: Integers [batch, heads, L, n] in [0, 2^P).
        v_mag: [batch, heads, n], lengths of values.
        allowed_bool: bool [batch, heads, queries, n]; keys that it does not allow have the score -inf.
        M: In [0, n].
        block: Keys that are scored at a time.

    Returns:
        (indices int64, scores float32), each [batch, heads, queries, M], the highest first.

    Raises:
        ValueError: A shape does not fit, or a number is out of range.
    """
    indices, scores = _ops.socket_top_collisions(q_probs, key_buckets, v_mag, allowed_bool, M, block)
    return indices, scores
