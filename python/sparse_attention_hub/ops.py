"""The efficient engine's kernels as functions of tensors on the CPU, for models of one's own.

They are operators (`torch.ops.sparse_attention_hub`): torch.compile and torch.export take them as they are, with shapes
that vary. None has gradients: a backward pass raises RuntimeError. Arguments that break a rule raise ValueError, which
names the argument, the rule and the value; what is valid and not supported raises NotImplementedError. The GIL is
released around the work.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from . import _core  # noqa: F401  registers the operators

__all__ = ["efficient_decode", "exact_top_k", "merge_attention_states"]

_ops = torch.ops.sparse_attention_hub


def efficient_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indices: Optional[Tensor] = None,
    *,
    offsets: Optional[Tensor] = None,
    inverse_probabilities: Optional[Tensor] = None,
    ranges: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sink_logits: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """Attention of one query a sequence over all keys, or over chosen ones, of which each row is read once.

    Sums are float32. Bits depend neither on the number of threads nor on what else is in the batch. Inverse
    probabilities follow Desai et al., "vAttention: verified sparse attention", 2025.

    Args:
        q: [batch, query heads, 1, dim], float32, float16 or bfloat16; dim up to 256.
        k: [batch, KV heads, keys, dim], of q's type. Query heads are 1 to 16 times as many as KV heads. Views are
            read in place if the elements of a row lie side by side, else copied.
        v: [batch, KV heads, keys, value dim].
        indices: Keys to attend to, int64 or int32, ascending in a list and none twice; None: those of `ranges`, or all.
            [batch, heads, n], heads being the query heads, or the KV heads, whose query heads then share a list. With
            `offsets` [entries].
        offsets: [batch * heads + 1], for lists of different lengths: list i is indices[offsets[i]:offsets[i + 1]],
            the form of `Mask.to_csr()`. What lies behind the last offset is not read.
        inverse_probabilities: The shape of `indices`, > 0 and finite: 1 over the probability that a sampled key was
            chosen with; it counts so many times. None: 1.
        ranges: [batch, ranges, 2], int64 or int32: keys [begin, end) that every query head attends to as well, such as
            sinks and a window. Ascending; no two may overlap, and no index may lie in one.
        lengths: [batch], keys that a sequence has, int64 or int32; None: all.
        scale: Of q.k; None: 1 / sqrt(dim).
        softcap: Logits x become softcap * tanh(x / softcap); None: they stay.
        sink_logits: [query heads]; exp of it joins the denominator.

    Returns:
        The output [batch, query heads, 1, value dim], of q's type, and the natural logarithm of the sum of exponentials
        [batch, query heads, 1], float32. A row without keys gets 0 and -inf (or its sink). NaN and infinities in keys
        that are not chosen have no effect.

    Raises:
        ValueError: A type, shape or device that does not fit; an index, offset, range or length out of its bounds; an
            index that is listed twice or out of order; a probability, scale or softcap that is not finite, or 0.
        NotImplementedError: Tensors off the CPU, several queries, dims over 256, over 16 query heads a KV head.
    """
    result: Tuple[Tensor, Tensor] = _ops.efficient_decode(
        q, k, v, indices, offsets, inverse_probabilities, ranges, lengths, scale, softcap, sink_logits
    )
    return result


def exact_top_k(scores: Tensor, k: int) -> Tensor:
    """The k highest scores of each row, as ascending indices: [..., n] to int64 [..., k].

    Of equal scores the lowest index wins. NaN counts as +inf, -inf as the lowest finite number of float32.

    Args:
        scores: float32, float16 or bfloat16, on the CPU.
        k: 0 to n.

    Raises:
        ValueError: Another type, a scalar, k out of range.
        NotImplementedError: Scores off the CPU, 2^31 of them a row.
    """
    result: Tensor = _ops.exact_top_k(scores, k)
    return result


def merge_attention_states(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tuple[Tensor, Tensor]:
    """The result of attention over two disjoint sets of keys, from the results over each.

    A sink belongs to one side only. An lse of -inf is a side without keys, whose output is not looked at. States are
    merged in float32 and rounded once, by their shares exp(lse), as in Dao et al., "Flash-Decoding", 2023.

    Args:
        out_a, out_b: [batch, heads, queries, value dim], float32, float16 or bfloat16, the same type.
        lse_a, lse_b: [batch, heads, queries], float32, natural logarithms.

    Returns:
        Output and lse in the same form.

    Raises:
        ValueError: Types, shapes or devices that do not fit.
    """
    result: Tuple[Tensor, Tensor] = _ops.merge_attention_states(out_a, lse_a, out_b, lse_b)
    return result
