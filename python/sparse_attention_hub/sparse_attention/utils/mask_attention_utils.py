"""Attention under a mask, step by step.

With logits x_j = scaling * q . k_j + attention_mask_j and weights w_j of a mask, E_j = exp(x_j - m) / (w_j + 1e-6) over
the keys with w_j != 0, the output is sum E_j v_j / sum E_j: a key that was kept with probability w stands for 1/w keys.
m is the highest logit of all keys of the row, or that of the selected keys where it lies more than 64 below, so that
nothing underflows. A full mask, and an empty one (nothing selected yet), mean dense attention; a row without any
selected key gives zeros.

Everything is computed in float32 and in C++ (`torch.ops.sparse_attention_hub`). Shapes: queries [batch, heads, queries,
dim], keys and values [batch, KV heads, keys, dim], attention_mask additive [batch or 1, heads or 1, queries or 1, >=
keys], of which the first `keys` columns count.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple, overload

import torch
from torch import Tensor, nn

from ... import _core  # noqa: F401  registers the operators
from .kv_utils import _get_num_key_value_groups, repeat_kv
from .mask import Mask

_ops = torch.ops.sparse_attention_hub


def get_true_attention_output(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Optional[Tensor],
    scaling: float,
    dropout: float,
    **kwargs: Any,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Dense attention, what masked attention is measured against.

    Args:
        module: Whether it trains decides on dropout; None: no dropout.
        queries: See the module's description, as the following.
        keys: Keys.
        values: Values.
        attention_mask: Additive, or None.
        scaling: Of the products.
        dropout: Of attention weights, when the module trains.
        **kwargs: `s_aux`, the sink logit of each head; others have no effect.

    Returns:
        (output [batch, queries, heads, dim], None).

    Raises:
        ValueError: `attention_mask` is bool, or heads do not fit.
    """
    sinks = kwargs.get("s_aux")
    if isinstance(sinks, Tensor):
        shape = (*queries.shape[:3], keys.shape[2])
        full = Mask.create_full_mask(shape, torch.float32, queries.device)
        output, _ = get_masked_attention_output(
            module, queries, keys, values, attention_mask, sinks, scaling, dropout, full
        )
        return output, None
    _get_num_key_value_groups(queries, keys)
    rate = dropout if _trains(module) else 0.0
    return _ops.dense_output(queries, keys, values, _additive(attention_mask, keys), scaling, rate), None


def apply_inv_mask_sum(input_tensor: Tensor, mask: Mask) -> Tensor:
    """Sums over the last dimension after dividing by the mask's weights.

    Args:
        input_tensor: [..., n], of the mask's shape.
        mask: A full or an empty one leaves the values as they are.

    Returns:
        [..., 1].

    Raises:
        ValueError: The shapes differ.
    """
    result: Tensor = _ops.row_sums(mask.apply_inv_mask(input_tensor))
    return result


def create_sampling_mask_with_per_head_budget(
    budgets: Tensor,
    sampling_probability: Tensor,
    seq_len_keys: int,
    start_idx: int,
    end_idx: int,
    dtype: torch.dtype = torch.float32,
) -> Mask:
    """A random mask in index form, drawn with replacement by torch's global generator.

    Args:
        budgets: int64 [batch, heads, queries, 1], draws of each row.
        sampling_probability: [batch, heads, queries, 1], the weight of each of a row's draws.
        seq_len_keys: Keys.
        start_idx: The first column that can be drawn.
        end_idx: The column after the last one.
        dtype: Of the mask.

    Returns:
        An index mask [batch, heads, queries, keys]; a column that is drawn twice is there twice.

    Raises:
        ValueError: There are draws but no columns to draw from, or they are no columns of the mask.
    """
    total = int(budgets.sum())
    if total and not 0 <= start_idx < end_idx <= seq_len_keys:
        raise ValueError(
            f"start_idx and end_idx must be a range of the {seq_len_keys} keys, got {start_idx} and {end_idx}"
        )
    draws = torch.randint(start_idx, max(end_idx, start_idx + 1), (total,), device=budgets.device)
    indices, ptr, data = _ops.sampled_index(budgets, sampling_probability, draws, seq_len_keys)
    shape = (*budgets.shape[:-1], seq_len_keys)
    return Mask(shape, dtype, indices.device, indices=indices, ptr=ptr, data=data, from_index=True)


def _compute_masked_exp_attention_weights(
    queries: Tensor,
    keys: Tensor,
    attention_mask: Optional[Tensor],
    scaling: float,
    sparse_attention_mask: Mask,
    dropout: float = 0.0,
    training: bool = False,
) -> Tensor:
    """E of the module's description, float32 [batch, heads, queries, keys]; dropout acts on it before any sum."""
    return _exponentials(queries, keys, attention_mask, scaling, sparse_attention_mask, dropout, training)[0]


def _get_attention_denominator(exp_attention_weights: Tensor) -> Tensor:
    """Sum over keys, [batch, heads, queries, 1]."""
    result: Tensor = _ops.row_sums(exp_attention_weights)
    return result


def _get_attention_numerator(exp_attention_weights: Tensor, value_states: Tensor) -> Tensor:
    """Sum of weighted values, [batch, heads, queries, dim]; `value_states` may have the KV heads or all heads."""
    result: Tensor = _ops.weighted_sums(exp_attention_weights, value_states)
    return result


def get_attention_denominator(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    attention_mask: Optional[Tensor],
    scaling: float,
    dropout: float,
    sparse_attention_mask: Mask,
    **kwargs: Any,
) -> Tensor:
    """Sum of E, float32 [batch, heads, queries, 1]. Without a module nothing trains, so that there is no dropout."""
    exp_attention_weights = _compute_masked_exp_attention_weights(
        queries, keys, attention_mask, scaling, sparse_attention_mask, dropout, _trains(module)
    )
    return _get_attention_denominator(exp_attention_weights)


def get_attention_numerator(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Optional[Tensor],
    scaling: float,
    dropout: float,
    sparse_attention_mask: Mask,
    **kwargs: Any,
) -> Tensor:
    """Sum of E times values, float32 [batch, heads, queries, dim]."""
    exp_attention_weights = _compute_masked_exp_attention_weights(
        queries, keys, attention_mask, scaling, sparse_attention_mask, dropout, _trains(module)
    )
    value_states = repeat_kv(values, _get_num_key_value_groups(queries, values))
    return _get_attention_numerator(exp_attention_weights, value_states)


def apply_sink_bias(
    num: Tensor,
    den: Tensor,
    exp_attention_weights: Tensor,
    queries: Tensor,
    keys: Tensor,
    attention_mask: Optional[Tensor],
    sinks: Optional[Tensor],
    scaling: float,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Adds the mass of learned sinks to the denominator.

    Args:
        num: [batch, heads, queries, dim].
        den: [batch, heads, queries, 1].
        exp_attention_weights: E; this and the two above must refer to the highest logit of all keys.
        queries: As they were for E.
        keys: As they were for E.
        attention_mask: As it was for E.
        sinks: [heads] logits, or None for no sinks.
        scaling: As it was for E.

    Returns:
        (num, den, exp_attention_weights), all three referring to the higher one of logits and sink.

    Raises:
        AssertionError: `sinks` has another shape.
    """
    if sinks is None:
        return num, den, exp_attention_weights
    _check_sinks(sinks, queries)
    row_maximum = _ops.attention_row_maximum(queries, keys, _additive(attention_mask, keys), scaling)
    num, den, exp_attention_weights = _ops.add_sinks(num, den, exp_attention_weights, row_maximum, sinks)
    return num, den, exp_attention_weights


@overload
def get_masked_attention_output(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Optional[Tensor],
    sinks: Optional[Tensor],
    scaling: float,
    dropout: float,
    sparse_attention_mask: Mask,
    return_attention_weights: bool = False,
    **kwargs: Any,
) -> Tuple[Tensor, Optional[Tensor]]: ...


@overload
def get_masked_attention_output(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Optional[Tensor],
    *,
    scaling: float,
    dropout: float,
    sparse_attention_mask: Mask,
    return_attention_weights: bool = False,
    **kwargs: Any,
) -> Tuple[Tensor, Optional[Tensor]]: ...


def get_masked_attention_output(
    module: Optional[nn.Module],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Optional[Tensor],
    sinks: Optional[Tensor] = None,
    scaling: Optional[float] = None,
    dropout: Optional[float] = None,
    sparse_attention_mask: Optional[Mask] = None,
    return_attention_weights: bool = False,
    **kwargs: Any,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Attention under `sparse_attention_mask`.

    Everything up to `sparse_attention_mask` must be given, but for `sinks`, which an older call form lacks: there, what
    comes after it is given by keyword.

    Args:
        module: Whether it trains decides on dropout; None: no dropout.
        queries: See the module's description, as the following.
        keys: Keys.
        values: Values.
        attention_mask: Additive, or None.
        sinks: [heads] logits of learned sinks, or None.
        scaling: Of the products.
        dropout: Of E, when the module trains.
        sparse_attention_mask: [batch, heads, queries, keys].
        return_attention_weights: Whether to return weights, too.
        **kwargs: Have no effect.

    Returns:
        (output [batch, queries, heads, dim], weights [batch, heads, queries, keys] or None), both of the queries' type. A
        row of weights sums to 1 less what a sink takes.

    Raises:
        TypeError: `scaling`, `dropout` or `sparse_attention_mask` is missing.
        ValueError: `attention_mask` is bool, or shapes do not fit.
        AssertionError: `sinks` has another shape.
    """
    if scaling is None or dropout is None or sparse_attention_mask is None:
        raise TypeError("get_masked_attention_output() needs scaling, dropout and sparse_attention_mask")
    exp_attention_weights, row_maximum = _exponentials(
        queries, keys, attention_mask, scaling, sparse_attention_mask, dropout, _trains(module)
    )
    _get_num_key_value_groups(queries, values)
    num = _get_attention_numerator(exp_attention_weights, values)
    den = _get_attention_denominator(exp_attention_weights)
    if sinks is not None:
        _check_sinks(sinks, queries)
        num, den, exp_attention_weights = _ops.add_sinks(num, den, exp_attention_weights, row_maximum, sinks)
    output = _ops.divide_rows(num, den).to(queries.dtype).transpose(1, 2).contiguous()
    if not return_attention_weights:
        return output, None
    return output, _ops.divide_rows(exp_attention_weights, den).to(queries.dtype)


def _exponentials(
    queries: Tensor,
    keys: Tensor,
    attention_mask: Optional[Tensor],
    scaling: float,
    mask: Mask,
    dropout: float,
    training: bool,
) -> Tuple[Tensor, Tensor]:
    """(E, m [batch, heads, queries, 1])."""
    _get_num_key_value_groups(queries, keys)
    weights = None
    if not (mask.is_full_mask() or mask.is_empty_mask()):
        shape = (*queries.shape[:3], keys.shape[2])
        if mask.shape != shape:
            raise ValueError(f"sparse_attention_mask.shape must be {shape}, got {mask.shape}")
        weights = mask.get_dense_mask()
    exponentials, row_maximum = _ops.masked_exponentials(
        queries, keys, _additive(attention_mask, keys), scaling, weights
    )
    if dropout > 0 and training:
        exponentials = nn.functional.dropout(exponentials, p=dropout, training=training)
    return exponentials, row_maximum


def _additive(attention_mask: Optional[Tensor], keys: Tensor) -> Optional[Tensor]:
    if attention_mask is None:
        return None
    if attention_mask.dtype == torch.bool:
        raise ValueError("attention_mask must be additive, with -inf or the lowest number at forbidden keys, got bool")
    if attention_mask.shape[-1] < keys.shape[2]:
        raise ValueError(
            f"attention_mask must have a column for each of the {keys.shape[2]} keys, got {attention_mask.shape[-1]}"
        )
    return attention_mask


def _check_sinks(sinks: Tensor, queries: Tensor) -> None:
    heads = queries.shape[1]
    assert tuple(sinks.shape) == (heads,), f"sinks must be 1D tensor of shape [{heads}], got {tuple(sinks.shape)}"


def _trains(module: Optional[nn.Module]) -> bool:
    return module is not None and module.training
