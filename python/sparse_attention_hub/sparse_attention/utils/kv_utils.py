"""Grouped queries: several query heads share the keys and values of one KV head."""

from __future__ import annotations

from torch import Tensor


def repeat_kv(hidden_states: Tensor, n_rep: int) -> Tensor:
    """Each KV head `n_rep` times in a row.

    Args:
        hidden_states: [batch, KV heads, keys, dim].
        n_rep: Query heads of a KV head.

    Returns:
        [batch, KV heads * n_rep, keys, dim]; the very argument where `n_rep` is 1.
    """
    if n_rep == 1:
        return hidden_states
    batch, heads, keys, dim = hidden_states.shape
    return hidden_states[:, :, None].expand(batch, heads, n_rep, keys, dim).reshape(batch, heads * n_rep, keys, dim)


def _get_num_key_value_groups(queries: Tensor, kv_tensor: Tensor) -> int:
    """Query heads of a KV head, of queries [batch, heads, ...] and keys or values [batch, KV heads, ...].

    Raises:
        ValueError: The KV heads do not divide the query heads.
    """
    heads, kv_heads = queries.shape[1], kv_tensor.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"num_attention_heads ({heads}) must be divisible by num_key_value_heads ({kv_heads})"
        )
    return heads // kv_heads
