"""Masks: what `transformers` is given for the name of a sparse attention, and how the attention reads it.

`transformers` hands what a mask function returns to every attention layer and looks at nothing but its shape. So a
causal mask, with or without a window and left padding, is not built: a few integers a row (`MaskFacts`) say all of it,
as an int64 tensor [batch, 1, 1, 6] whatever the number of queries and keys. A tensor, and not an object, because it
passes through `torch.compile`, static caches and device hooks; int64, because a layer that does not call our attention
then fails instead of ignoring it. Any other mask is the boolean one that `sdpa` would get, True where a query sees a
key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from transformers import masking_utils

from .versions import QueryRange, query_range

_MAGIC = 0x5A5A
# Columns of a row of the tensor.
_PADDING, _QUERY_OFFSET, _KEY_OFFSET, _WINDOW, _VALID, _TAG = range(6)

MaskFunction = Callable[..., Any]


@dataclass(frozen=True)
class MaskFacts:
    """A causal mask in a few numbers. Positions count a row's padding; key 0 of a layer has position `key_offset`."""

    #: How many tokens at the beginning of each row are padding.
    paddings: tuple[int, ...]
    #: The position of the first query.
    query_offset: int
    #: The position of the first key that a layer gets: above 0 where a cache has dropped older keys.
    key_offset: int
    #: How many keys a query sees, its own included; None for all before it.
    window: int | None = None

    def runs(self) -> list[tuple[int, int, int]]:
        """(first row, row past the end, padding) of adjacent rows with equal padding."""
        runs: list[tuple[int, int, int]] = []
        for row, padding in enumerate(self.paddings):
            if runs and runs[-1][2] == padding:
                runs[-1] = (runs[-1][0], row + 1, padding)
            else:
                runs.append((row, row + 1, padding))
        return runs


def is_facts(mask: torch.Tensor | None) -> bool:
    """`mask` is a tensor of `sparse_mask` that stands for `MaskFacts`."""
    return mask is not None and mask.dtype == torch.int64 and mask.ndim == 4 and mask.shape[1:] == (1, 1, _TAG + 1)


def read_facts(mask: torch.Tensor) -> MaskFacts:
    """The facts of a tensor for which `is_facts` holds.

    Raises:
        RuntimeError: The tensor is not one of `sparse_mask`.
        NotImplementedError: A compiled model got a padding mask that is not left padding.
    """
    rows = mask[:, 0, 0].tolist()
    if any(row[_TAG] != _MAGIC for row in rows):
        raise RuntimeError("the attention mask was changed between the mask function and the attention")
    if not all(row[_VALID] for row in rows):
        raise NotImplementedError("a compiled model takes left padding only, got zeros elsewhere in attention_mask")
    first = rows[0]
    return MaskFacts(
        tuple(row[_PADDING] for row in rows),
        first[_QUERY_OFFSET],
        first[_KEY_OFFSET],
        first[_WINDOW] or None,
    )


def _parts_of(function: MaskFunction) -> tuple[MaskFunction, ...] | None:
    """What a conjunction of `transformers.masking_utils` consists of."""
    if "and_masks.<locals>" not in function.__qualname__ or function.__closure__ is None:
        return None
    names = function.__code__.co_freevars
    return tuple(function.__closure__[names.index("mask_functions")].cell_contents)


def causal_structure(function: MaskFunction) -> tuple[bool, int | None]:
    """(True, its window or None) for a mask function that is causal, has at most a window, and nothing else.

    Mask functions of `transformers` are closures over one another; only the two that it makes for plain causal and
    sliding window masks are taken apart, anything else is (False, None).
    """
    if function is masking_utils.causal_mask_function:
        return True, None
    if torch.compiler.is_compiling():
        return False, None
    causal, window = False, None
    for part in _parts_of(function) or ():
        if part is masking_utils.causal_mask_function:
            causal = True
        elif part.__qualname__ == "sliding_window_overlay.<locals>.inner_mask" and part.__closure__ is not None:
            size = int(part.__closure__[0].cell_contents)
            window = size if window is None else min(window, size)
        else:
            return False, None
    return causal, window


def _left_padding(
    attention_mask: torch.Tensor | None, batch: int, total: torch.Tensor | int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(padding int64 [batch], bool [batch]: the row is zeros, then ones) over the first `total` tokens."""
    if attention_mask is None:
        return torch.zeros(batch, dtype=torch.int64, device=device), torch.ones(batch, dtype=torch.bool, device=device)
    seen = attention_mask.to(device=device, dtype=torch.bool)
    positions = torch.arange(seen.shape[1], device=device)
    seen = seen & (positions < total)
    # Tokens past the end of the mask are masked, as `transformers` has it.
    visible = seen.sum(1)
    padding = total - visible
    first = seen.to(torch.uint8).argmax(1)
    return padding, (visible == 0) | (first == padding)


def sparse_mask(
    batch_size: int,
    kv_length: int,
    kv_offset: int | torch.Tensor = 0,
    mask_function: MaskFunction | None = None,
    attention_mask: torch.Tensor | None = None,
    **arguments: Any,
) -> torch.Tensor:
    """The mask of a sparse attention, for `AttentionMaskInterface`.

    Args:
        batch_size: Rows.
        kv_length: Keys that a layer will get.
        kv_offset: The position of the first of them.
        mask_function: Which key a query sees; default: those up to its own position.
        attention_mask: [batch, tokens], False for padding.
        **arguments: Where the queries lie (see `versions.query_range`), and what else `transformers` hands over.

    Returns:
        Int64 [batch, 1, 1, 6] (`MaskFacts`) for causal masks, else bool [batch, heads or 1, queries, keys].
    """
    if mask_function is None:
        mask_function = masking_utils.causal_mask_function
    queries = query_range(arguments)
    causal, window = causal_structure(mask_function)
    if causal:
        mask = _facts_tensor(batch_size, queries, kv_offset, window, attention_mask)
        if mask is not None:
            return mask
    for skip in ("allow_is_causal_skip", "allow_is_bidirectional_skip"):
        arguments[skip] = False
    sdpa_mask: Any = masking_utils.sdpa_mask  # whose types say less than it takes
    return sdpa_mask(
        batch_size=batch_size,
        kv_length=kv_length,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **arguments,
    )


def _facts_tensor(
    batch: int,
    queries: QueryRange,
    key_offset: int | torch.Tensor,
    window: int | None,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor | None:
    """The facts as a tensor on the queries' device; None where padding or positions are not of that form."""
    total = queries.offset + queries.length
    padding, valid = _left_padding(attention_mask, batch, total, queries.device)
    if queries.is_contiguous is not None:
        valid = valid & queries.is_contiguous
    if not torch.compiler.is_compiling() and not bool(valid.all()):
        return None
    mask = torch.zeros(batch, 1, 1, _TAG + 1, dtype=torch.int64, device=queries.device)
    mask[:, 0, 0, _PADDING] = padding
    mask[:, 0, 0, _QUERY_OFFSET] = queries.offset
    mask[:, 0, 0, _KEY_OFFSET] = key_offset
    mask[:, 0, 0, _WINDOW] = window or 0
    mask[:, 0, 0, _VALID] = valid.to(torch.int64)
    mask[:, 0, 0, _TAG] = _MAGIC
    return mask


def additive_mask(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """A mask as the additive one of `eager` attention, for code that takes nothing else.

    Args:
        mask: Whatever arrived as attention mask: of `sparse_mask`, boolean (True: seen), additive, or None.
        query: [batch, heads, queries, dim].
        key: [batch, KV heads, keys, dim].

    Returns:
        [batch, heads or 1, queries, keys] in query's type, its lowest finite value where a key is not seen; None for
        None. It has queries x keys elements: for prompts, use what takes `MaskFacts`.
    """
    if mask is None:
        return None
    keys = key.shape[2]
    if is_facts(mask):
        seen = seen_keys(read_facts(mask), query.shape[2], keys, query.device)
    elif mask.dtype == torch.bool:
        seen = mask[..., :keys]
    else:
        return mask[..., :keys]
    return additive_of(seen, query.dtype)


def seen_keys(facts: MaskFacts, queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Which of a layer's keys each query sees, bool [batch, 1, queries, keys]."""
    at = torch.arange(queries, device=device)[:, None] + facts.query_offset
    of = torch.arange(keys, device=device)[None, :] + facts.key_offset
    seen = of <= at
    if facts.window is not None:
        seen = seen & (of > at - facts.window)
    paddings = torch.tensor(facts.paddings, device=device)[:, None, None, None]
    return seen[None, None] & (of[None, None] >= paddings)


def additive_of(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `seen`, else the lowest finite value of `dtype`."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
