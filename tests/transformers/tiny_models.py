"""Tiny random models for the tests of the `transformers` adapter, and an attention in float64 to hold them to."""

from __future__ import annotations

import math
from typing import Any, Callable

import pytest
import torch
import transformers

VOCABULARY = 97

_COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.25,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def _config(name: str, **changes: Any) -> Any:
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, name)(**{**_COMMON, **changes})


def _llama() -> Any:
    return _config("LlamaConfig")


def _qwen2() -> Any:
    return _config("Qwen2Config")


def _qwen2_windowed() -> Any:
    return _config("Qwen2Config", use_sliding_window=True, sliding_window=9, max_window_layers=1)


def _qwen3() -> Any:
    return _config("Qwen3Config", head_dim=16)


def _mistral() -> Any:
    return _config("MistralConfig", sliding_window=9)


def _gemma2() -> Any:
    return _config("Gemma2Config", head_dim=8, query_pre_attn_scalar=8, sliding_window=9, attn_logit_softcapping=2.0)


def _gemma3() -> Any:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return _config("Gemma3TextConfig", head_dim=8, query_pre_attn_scalar=8, sliding_window=9, layer_types=layers)


def _gpt_oss() -> Any:
    return _config("GptOssConfig", head_dim=8, sliding_window=9, num_local_experts=4, num_experts_per_tok=2)


def _qwen3_next() -> Any:
    return _config(
        "Qwen3NextConfig",
        num_hidden_layers=4,
        head_dim=16,
        layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )


def _lfm2() -> Any:
    return _config("Lfm2Config", layer_types=["conv", "full_attention", "conv"], conv_L_cache=3)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen2_windowed": _qwen2_windowed,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt_oss": _gpt_oss,
    "qwen3_next": _qwen3_next,
    "lfm2": _lfm2,
}
#: They have layers that are no softmax attention.
HYBRIDS = {"qwen3_next": (0, 2), "lfm2": (0, 2)}
DECODERS = [name for name in CONFIGS if name not in HYBRIDS]


def tiny_model(name: str, seed: int = 0) -> Any:
    """A random float32 model in evaluation mode with eager attention; skips where transformers has no such class."""
    config = CONFIGS[name]()
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("sinks"):
                parameter.normal_()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random token ids [batch, length], none of them special."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


class Recorder:
    """An attention function that writes down its calls, and answers in float64 with the keys that `keep` leaves.

    `keep(layer, query_position, visible)` gets the bool [keys] that the mask leaves and gives back a bool [heads, keys].
    Written from the definition of attention alone: no code of the package is used.
    """

    def __init__(self, keep: Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.keep = keep

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
        scaling: float | None = None, dropout: float = 0.0, softcap: float | None = None,
        s_aux: torch.Tensor | None = None, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        batch, heads, queries, dim = query.shape
        group = heads // key.shape[1]
        k = key.double().repeat_interleave(group, 1)
        v = value.double().repeat_interleave(group, 1)
        logits = query.double() @ k.transpose(2, 3) * (dim**-0.5 if scaling is None else scaling)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        keys = key.shape[2]
        out = query.new_zeros(batch, queries, heads, value.shape[3])
        for b in range(batch):
            for i in range(queries):
                visible = attention_mask[b, 0, i, :keys] == 0
                if not visible.any():
                    continue
                kept = self.keep(module.layer_idx, keys - queries + i, visible, logits[b, :, i])
                for h in range(heads):
                    x = logits[b, h, i].masked_fill(~(kept[h] & visible), -math.inf)
                    weights = x.exp()
                    total = weights.sum() + (s_aux[h].double().exp() if s_aux is not None else 0)
                    out[b, i, h] = ((weights / total) @ v[b, h]).to(out.dtype)
        return out, None
