"""What several methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from ....... import _core  # noqa: F401  registers the operators

_ops = torch.ops.sparse_attention_hub


def pseudo_quantize(tensor: Tensor, q_bit: int) -> Tensor:
    """What is left of vectors when each of them is stored in `q_bit` bits a value.

    Each vector along the last dimension has a range of its own, [low, high]; its values become whole numbers in
    [0, 2^q_bit - 1], rounded half to even, and then values again. Computed in float32.

    Args:
        tensor: [..., dim], floating.
        q_bit: 1 to 16.

    Returns:
        Of the shape and type of `tensor`.

    Raises:
        ValueError: `q_bit` is out of range.
    """
    if not 1 <= q_bit <= 16:
        raise ValueError(f"q_bit must be in [1, 16], got {q_bit}")
    result: Tensor = _ops.pseudo_quantize(tensor, q_bit)
    return result
