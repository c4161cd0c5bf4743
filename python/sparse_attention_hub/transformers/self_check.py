"""The self-check: does a model's attention really get to us, with everything that shapes it?

The model reads three short rows in one pass: tokens, the same tokens but for the last, and the same with one token of
left padding. Attention is dense meanwhile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .dispatch import Call, Dispatcher
from .layers import AttentionLayer, text_config

_TOKENS = 6


def self_check(model: nn.Module, dispatcher: Dispatcher, layers: list[AttentionLayer]) -> None:
    """Runs `model`, whose attention must be `dispatcher`, and looks at what arrives.

    Nothing is left changed: no gradients, no state of random generators, no sequences.

    Raises:
        RuntimeError: A layer does not call the attention exactly once, has lost its mask, window, softcap or sink
            logits, or sees later tokens. The message names the layer.
    """
    device = next(model.parameters()).device
    vocabulary = int(getattr(text_config(model), "vocab_size", 0) or _TOKENS + 1)
    tokens = (torch.arange(3, 3 + _TOKENS, device=device) % vocabulary).repeat(3, 1)
    tokens[1, -1] = (tokens[1, -1] + 1) % vocabulary
    padding = torch.ones_like(tokens)
    padding[2, 0] = 0
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), dispatcher.recording() as calls:
        model(input_ids=tokens, attention_mask=padding, use_cache=False)
    _check_calls(layers, calls)
    for layer in layers:
        call = next(call for call in calls if call.module is layer.module)
        _check_mask(layer, call)
        _check_causality(layer, call)
        _check_arguments(layer, call)


def _fail(layer: AttentionLayer, what: str) -> None:
    raise RuntimeError(
        f"self-check: layer {layer.index} ({layer.name}, {type(layer.module).__name__}) {what}. "
        "The model's results would be wrong; check=False skips this check"
    )


def _check_calls(layers: list[AttentionLayer], calls: list[Call]) -> None:
    for layer in layers:
        count = sum(call.module is layer.module for call in calls)
        if count == 0:
            _fail(layer, "does not route its attention through transformers' attention interface: it was not called")
        if count > 1:
            _fail(layer, f"calls the attention {count} times in one pass: its keys cannot be told apart")


def _check_mask(layer: AttentionLayer, call: Call) -> None:
    if call.mask is None:
        _fail(layer, "gets no attention mask: it was lost between the model and the attention")
    if call.facts is not None:
        if call.facts.paddings != (0, 0, 1):
            _fail(layer, "has lost the padding of its attention mask")
        return
    assert call.mask is not None
    rows = call.mask.expand(3, *call.mask.shape[1:])
    hidden = rows[2, :, -1, 0]
    lost = hidden if hidden.dtype == torch.bool else hidden > torch.finfo(hidden.dtype).min / 2
    if bool(lost.any()):
        _fail(layer, "has lost the padding of its attention mask")


def _check_causality(layer: AttentionLayer, call: Call) -> None:
    """Rows 0 and 1 differ in the last token: earlier outputs differ no more than what they are made of."""

    def change(x: torch.Tensor, tokens: int) -> float:
        """The largest relative difference of the rows over the first tokens, which are dimension 0 of x[row]."""
        a, b = x[0].float()[:tokens], x[1].float()[:tokens]
        return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))

    before = _TOKENS - 1
    inputs = max(change(x.transpose(1, 2), before) for x in (call.query, call.key, call.value))
    precision = torch.finfo(call.out.dtype).eps
    if change(call.out, before) > 10 * inputs + 100 * precision:
        _fail(layer, "sees later tokens: its attention mask is not causal")


def _check_arguments(layer: AttentionLayer, call: Call) -> None:
    expected: dict[str, tuple[Any, Any]] = {"softcap": (layer.softcap, call.softcap)}
    if call.facts is not None or call.window is not None:
        # A mask that is given element by element may hold a window that these few tokens do not show.
        expected["sliding_window"] = (layer.sliding_window, call.window)
    for name, (configured, arrived) in expected.items():
        if configured != arrived:
            _fail(layer, f"has {name} {configured}, and {arrived} arrives at the attention")
    if layer.has_sinks and call.sinks is None:
        _fail(layer, "has sink logits, and none arrive at the attention")
