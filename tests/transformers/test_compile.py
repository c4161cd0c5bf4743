"""A compiled model: no graph breaks, the same numbers."""

from __future__ import annotations

import inspect
from typing import Any, Callable

import pytest
import torch
import transformers
from decoding import COVERING, SPARSE, new_cache
from tiny_models import tiny_model, tokens

from sparse_attention_hub.transformers import sparse


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("pipeline", [COVERING, SPARSE], ids=["covering", "sparse"])
def test_decoding_with_a_static_cache(name: str, pipeline: dict[str, Any]) -> None:
    model = tiny_model(name)
    ids = tokens(2, 30)

    def decode(step: Callable[..., Any]) -> torch.Tensor:
        cache = new_cache("static", model, 2, 30)
        logits = [model(input_ids=ids[:, :20], past_key_values=cache).logits[:, -1:]]
        for at in range(20, 30):
            arguments = dict(input_ids=ids[:, at : at + 1], past_key_values=cache)
            arguments["position_ids"] = torch.tensor([[at], [at]])
            if "cache_position" in inspect.signature(model.forward).parameters:
                arguments["cache_position"] = torch.tensor([at])
            logits.append(step(**arguments).logits)
        return torch.cat(logits, 1)

    with torch.no_grad():
        torch._dynamo.reset()
        try:
            decode(torch.compile(model, backend="eager", fullgraph=True))
        except torch._dynamo.exc.TorchDynamoException as error:
            pytest.skip(f"transformers {transformers.__version__} does not compile this model: {type(error).__name__}")
        with sparse(model, pipeline):
            expected = decode(model)
            torch._dynamo.reset()
            actual = decode(torch.compile(model, backend="eager", fullgraph=True))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_operator_passes_opcheck() -> None:
    from sparse_attention_hub import _core
    from sparse_attention_hub._pipeline import DENSE
    from sparse_attention_hub.transformers import Dispatcher

    dispatcher = Dispatcher(_core.HostAttention(DENSE))
    query, key = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8)
    arguments = (dispatcher._handle, query, key, key.clone(), None, torch.randn(4), None, 2.0, 4, 1)
    torch.library.opcheck(torch.ops.sparse_attention_hub.transformers_step, arguments)
