"""Caches that hold rounded keys and give back others than they got."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding import COVERING, SPARSE
from tiny_models import tiny_model, tokens
from transformers import cache_utils

from sparse_attention_hub.transformers import sparse


class Int8Layer(cache_utils.QuantizedLayer):  # type: ignore[misc]
    """Rounds everything but the latest keys to 8 bits."""

    def __init__(self) -> None:
        super().__init__(residual_length=4)

    def _quantize(self, tensor: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        scale = tensor.abs().amax(-1, keepdim=True) / 127
        return (tensor / scale).round().to(torch.int8), scale

    def _dequantize(self, quantized: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return quantized[0].float() * quantized[1]


def decode(model: Any, ids: torch.Tensor) -> torch.Tensor:
    layers = [Int8Layer() for _ in range(model.config.num_hidden_layers)]
    cache = cache_utils.Cache(layers=layers)
    with torch.no_grad():
        logits = [model(input_ids=ids[:, :15], past_key_values=cache).logits]
        for at in range(15, ids.shape[1]):
            logits.append(model(input_ids=ids[:, at : at + 1], past_key_values=cache).logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_covering_pipeline_equals_eager_attention(name: str) -> None:
    model = tiny_model(name)
    ids = tokens(2, 30)
    expected = decode(model, ids)
    with sparse(model, COVERING):
        torch.testing.assert_close(decode(model, ids), expected, rtol=1e-4, atol=1e-4)
    with sparse(model, SPARSE):
        assert (decode(model, ids) - expected).abs().max() > 1e-2
