"""What an attention mask allows, for the methods that take bool masks, too."""

from __future__ import annotations

import torch
from torch import Tensor

from ....... import _core  # noqa: F401  registers the operators


def allowed_keys(attention_mask: Tensor, keys: int) -> Tensor:
    """1 at the keys that a mask allows, 0 at others.

    Args:
        attention_mask: [batch or 1, heads or 1, queries or 1, >= keys], or without the first one or two dimensions.
            Bool: True forbids (in `transformers` it allows). Numbers: below 0 forbids.
        keys: The first columns, which count.

    Returns:
        [batch or 1, heads or 1, queries or 1, keys] of the mask's floating type; float32 of other types.

    Raises:
        ValueError: The mask has another rank, or fewer columns.
    """
    if not 2 <= attention_mask.dim() <= 4 or attention_mask.shape[-1] < keys:
        raise ValueError(
            f"attention_mask must be [batch, heads, queries, >= {keys}] or without the first one or two dimensions, got "
            f"{tuple(attention_mask.shape)}"
        )
    if attention_mask.dim() == 3:
        attention_mask = attention_mask[:, None]
    elif attention_mask.dim() == 2:
        attention_mask = attention_mask[None, None]
    result: Tensor = torch.ops.sparse_attention_hub.allowed_keys(attention_mask, keys)
    return result
