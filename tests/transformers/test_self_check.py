"""Every fault that the self-check is there for, planted in a model."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from decoding import SPARSE
from tiny_models import CONFIGS, HYBRIDS, tiny_model
from torch.nn import functional
from transformers.masking_utils import AttentionMaskInterface

from sparse_attention_hub.transformers import context, sparse


@pytest.mark.parametrize("name", CONFIGS)
def test_sound_models_pass_and_nothing_changes(name: str) -> None:
    model = tiny_model(name)
    state = torch.random.get_rng_state()
    with sparse(model, SPARSE) as handle:
        assert torch.equal(torch.random.get_rng_state(), state)
        assert handle.dispatcher.sequences._sequences == {}
        skipped = HYBRIDS.get(name, ())
        assert handle.summary().skipped == skipped
        assert len(handle.summary().sparse) == model.config.num_hidden_layers - len(skipped)
        assert handle.summary().dense == ()


def attention(model: Any, layer: int) -> Any:
    return model.model.layers[layer].self_attn


def change_arguments(module: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """The module's call of the attention interface goes through `change`."""
    forward = module.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        change(kwargs)
        return forward(*args, **kwargs)

    module.forward = changed


def refused(model: Any, *words: str) -> None:
    with pytest.raises(RuntimeError) as error, sparse(model, SPARSE):
        pytest.fail("the fault was not noticed")
    for word in words:
        assert word in str(error.value), str(error.value)
    with sparse(model, SPARSE, check=False):
        pass


def test_a_layer_that_bypasses_the_interface() -> None:
    model = tiny_model("llama")
    module = attention(model, 1)

    def bypass(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return module.o_proj(out.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), None

    module.forward = bypass
    refused(model, "layer 1", "model.layers.1.self_attn", "does not route")


def test_a_layer_that_attends_twice() -> None:
    model = tiny_model("llama")
    module = attention(model, 2)
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs) and forward(*args, **kwargs)
    refused(model, "layer 2", "2 times")


def test_the_mask_function_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_mask(name: str, function: Any, mask_function: Any) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(name, function)

    monkeypatch.setattr(context, "register_attention", without_mask)
    refused(tiny_model("llama"), "layer 0", "no attention mask")


def test_one_layer_loses_its_mask() -> None:
    model = tiny_model("llama")
    change_arguments(attention(model, 1), lambda kwargs: kwargs.update(attention_mask=None))
    refused(model, "layer 1", "no attention mask")


def test_a_mask_that_is_not_causal() -> None:
    model = tiny_model("llama")

    def uncover(kwargs: dict[str, Any]) -> None:
        mask = torch.ones(3, 1, 6, 6, dtype=torch.bool)
        mask[2, :, :, 0] = False
        kwargs["attention_mask"] = mask

    change_arguments(attention(model, 1), uncover)
    refused(model, "layer 1", "not causal")


@pytest.mark.parametrize("form", ["facts", "bool"])
def test_a_mask_without_padding(form: str) -> None:
    from sparse_attention_hub.transformers.mask_function import sparse_mask

    model = tiny_model("llama")

    def forget(kwargs: dict[str, Any]) -> None:
        if form == "bool":
            kwargs["attention_mask"] = torch.ones(3, 1, 6, 6, dtype=torch.bool).tril()
        else:
            kwargs["attention_mask"] = sparse_mask(3, 6, cache_position=torch.arange(6))

    change_arguments(attention(model, 0), forget)
    refused(model, "layer 0", "padding")


def lose(model: Any, layer: int, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer's module does not hand `argument` to the attention."""
    from transformers import AttentionInterface

    register = context.register_attention

    def forgetful(name: str, function: Any, mask_function: Any) -> None:
        def without(module: Any, *args: Any, **kwargs: Any) -> Any:
            if module is attention(model, layer):
                kwargs.pop(argument, None)
            return function(module, *args, **kwargs)

        register(name, function, mask_function)
        AttentionInterface.register(name, without)

    monkeypatch.setattr(context, "register_attention", forgetful)


def test_a_lost_softcap(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    lose(model, 1, "softcap", monkeypatch)
    refused(model, "layer 1", "softcap 2.0")


def test_lost_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_oss")
    lose(model, 2, "s_aux", monkeypatch)
    refused(model, "layer 2", "sink logits")


def test_a_lost_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    lose(model, 0, "sliding_window", monkeypatch)
    # The mask still has it.
    with sparse(model, SPARSE):
        pass
    from sparse_attention_hub.transformers import mask_function

    structure = mask_function.causal_structure
    monkeypatch.setattr(mask_function, "causal_structure", lambda function: (structure(function)[0], None))
    refused(model, "layer 0", "sliding_window 9")


def test_a_mask_that_was_tampered_with() -> None:
    model = tiny_model("llama")
    change_arguments(attention(model, 0), lambda kwargs: kwargs.update(attention_mask=kwargs["attention_mask"] * 2))
    with pytest.raises(RuntimeError, match="was changed"), sparse(model, SPARSE):
        pass


def test_the_mask_is_none_of_a_layer_that_does_not_call_us() -> None:
    """Our mask is no mask for other attentions: they fail on it and do not ignore it."""
    from sparse_attention_hub.transformers.mask_function import sparse_mask

    mask = sparse_mask(1, 4, cache_position=torch.arange(4))
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(RuntimeError):
        functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert not any(key.startswith("sparse_attention_hub_") for key in AttentionMaskInterface())
