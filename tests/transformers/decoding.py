"""Reading tokens through a model step by step, the same way for every test."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, StaticCache

from sparse_attention_hub.transformers import versions

SHORT = {"type": "research", "maskers": []}
#: Every masker keeps all keys.
COVERING = {
    "type": "research",
    "maskers": [{"type": "sink", "sink_size": 1}, {"type": "oracle_top_k", "heavy_size": 100000}],
}
SPARSE = {
    "type": "research",
    "maskers": [
        {"type": "sink", "sink_size": 2},
        {"type": "local", "window_size": 3},
        {"type": "oracle_top_k", "heavy_size": 2},
    ],
}


def new_cache(kind: str, model: Any, batch: int, length: int) -> Any:
    """A cache: "dynamic" keeps all keys, "sliding" a window where a layer has one, "hybrid" states of recurrent layers
    too, "static" is longer than `length`."""
    if kind == "none":
        return None
    if kind == "dynamic":
        return DynamicCache()
    if kind == "sliding":
        return DynamicCache(config=model.config)
    if kind == "hybrid":
        return versions.new_cache(model, keeps_states=True, batch=batch)
    assert kind == "static"
    return StaticCache(config=model.config, max_cache_len=length + 9)


def read(
    model: Any, ids: torch.Tensor, *, first: int, cache: str = "dynamic", mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [batch, tokens, vocabulary] of `ids`: the first `first` tokens in one step, then one token a step.

    Positions count the tokens that `mask` does not hide. With cache "none" each step reads everything again.
    """
    batch, total = ids.shape
    if mask is None:
        mask = torch.ones_like(ids)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    kept = new_cache(cache, model, batch, total)
    logits = []
    with torch.no_grad():
        for begin, end in [(0, first), *((i, i + 1) for i in range(first, total))]:
            start = 0 if kept is None else begin
            out = model(
                input_ids=ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, start:end],
                past_key_values=kept,
                use_cache=kept is not None,
            )
            logits.append(out.logits[:, begin - start :])
    return torch.cat(logits, 1)
