"""Quest: bounds of pages of keys (Tang et al., ICML 2024)."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from ....... import _core  # noqa: F401  registers the operators
from .attention_mask import allowed_keys

_ops = torch.ops.sparse_attention_hub


def compute_page_min_max(keys_rep: Tensor, page_size: int, num_pages: int) -> Tuple[Tensor, Tensor]:
    """The lowest and the highest value of each channel over each page.

    Args:
        keys_rep: [batch, heads, keys, dim].
        page_size: Keys of a page; the last one may have fewer.
        num_pages: Pages; they must hold all keys.

    Returns:
        (lowest, highest), each [batch, heads, pages, dim].

    Raises:
        ValueError: The pages do not hold all keys.
    """
    _check_pages(keys_rep.shape[2], page_size, num_pages)
    low, high = _ops.quest_page_min_max(keys_rep, page_size, num_pages)
    return low, high


def quest_page_scores(queries: Tensor, page_min: Tensor, page_max: Tensor) -> Tensor:
    """Sum over channels of max(q * min, q * max): no product of q with a key of the page is higher.

    Args:
        queries: [batch, heads, queries, dim].
        page_min: [batch, heads, pages, dim].
        page_max: Of the same shape.

    Returns:
        [batch, heads, queries, pages].
    """
    scores: Tensor = _ops.quest_page_scores(queries, page_min, page_max)
    return scores


def pages_to_token_mask(
    topk_pages: Tensor, K: int, page_size: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """1 at the keys of the given pages, 0 at others.

    Args:
        topk_pages: int64 [batch, heads, queries, k] in [0, ceil(K / page_size)).
        K: Keys.
        page_size: Keys of a page.
        device: Where the result goes.
        dtype: Of the result.

    Returns:
        [batch, heads, queries, K].
    """
    mask: Tensor = _ops.quest_pages_to_tokens(topk_pages.to(device), K, page_size, dtype)
    return mask


def attention_mask_to_allowed_prob(attention_mask: Tensor, K: int) -> Tensor:
    """1 at the keys that a mask allows, 0 at others; see `allowed_keys`, whose meaning of bool masks it has."""
    return allowed_keys(attention_mask, K)


def pages_valid(allowed_prob: Tensor, page_size: int, num_pages: int) -> Tensor:
    """Which pages have a key that is allowed for any head.

    Args:
        allowed_prob: [batch, heads, queries, keys], above 0 at allowed keys.
        page_size: Keys of a page.
        num_pages: Pages; they must hold all keys.

    Returns:
        bool [batch, queries, pages].

    Raises:
        ValueError: The pages do not hold all keys.
    """
    _check_pages(allowed_prob.shape[-1], page_size, num_pages)
    valid: Tensor = _ops.quest_pages_valid(allowed_prob, page_size, num_pages)
    return valid


def _check_pages(keys: int, page_size: int, num_pages: int) -> None:
    if page_size < 1 or page_size * num_pages < keys:
        raise ValueError(f"pages must hold all {keys} keys, got {num_pages} pages of {page_size}")
