"""The decoder against transformers, on tiny random checkpoints of every family that are written here.

float32 logits of a prompt agree within 1e-4 and 64 greedy tokens are the same. Prompts are longer than the sliding
windows, and than the length that dynamic rope was "trained" for.
"""

import copy
import os
import subprocess

import numpy as np
import pytest
import torch
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

DUMP = os.environ["SA_DECODER_DUMP"]
VOCAB, PROMPT, GREEDY = 160, 150, 64

SIZES = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None, eos_token_id=None,
             initializer_range=0.25)

LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)


def llama(**kwargs):
    return LlamaForCausalLM, LlamaConfig(**{**SIZES, **kwargs})


def rope(**kwargs):
    return llama(rope_parameters={"rope_theta": 10000.0, **kwargs})


MODELS = {
    "llama": llama(),
    "llama_tied": llama(tie_word_embeddings=True),
    "llama_biases": llama(attention_bias=True, mlp_bias=True),
    "llama_head_dim": llama(head_dim=32),
    "llama_every_head_its_own": llama(num_key_value_heads=6),
    "llama_linear": rope(rope_type="linear", factor=4.0),
    # Crosses the trained length while it decodes, ...
    "llama_dynamic_grows": llama(max_position_embeddings=PROMPT + 20,
                                 rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)),
    # ... and already while it reads the prompt.
    "llama_dynamic_beyond": llama(max_position_embeddings=64,
                                  rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)),
    "llama_llama3": llama(rope_parameters=LLAMA3),
    "llama_yarn": llama(rope_parameters=YARN),
    "llama_yarn_mscale": llama(rope_parameters=dict(YARN, mscale=0.8, mscale_all_dim=0.5, truncate=False)),
    "llama_yarn_factor": llama(rope_parameters=dict(YARN, attention_factor=1.3, beta_fast=16.0, beta_slow=2.0)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen2_windows": (Qwen2ForCausalLM, Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=40,
                                                    max_window_layers=1, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16)),
    "qwen3_tied_yarn": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=24, tie_word_embeddings=True,
                                                      attention_bias=True, rope_parameters=YARN)),
    "mistral": (MistralForCausalLM, MistralConfig(**{**SIZES, "sliding_window": None})),
    "mistral_window": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=40)),
}


def make_model(name):
    torch.manual_seed(sum(name.encode()))
    model_class, config = MODELS[name]
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif parameter_name.endswith("bias"):
                parameter.normal_(0, 0.25)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompt(name):
    return np.random.default_rng(sum(name.encode())).integers(0, VOCAB, PROMPT, dtype=np.int32)


def run(folder, ids, tmp_path, *options):
    ids.tofile(tmp_path / "ids.bin")
    subprocess.run([DUMP, folder, tmp_path / "ids.bin", tmp_path / "out.bin", *options], check=True)
    return (tmp_path / "out.bin").read_bytes()


def ours(folder, ids, tmp_path, *options):
    data = run(folder, ids, tmp_path, f"greedy={GREEDY}", *options)
    logits = np.frombuffer(data, np.float32, len(ids) * VOCAB).reshape(len(ids), VOCAB)
    return logits, np.frombuffer(data, np.int32, offset=logits.nbytes).tolist()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits[0].float().numpy()


def theirs(model, ids):
    logits = logits_of(model, ids)
    tokens = torch.tensor(ids[None].astype(np.int64))
    generated = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=GREEDY, do_sample=False)
    return logits, generated[0, len(ids):].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_float32_logits_and_greedy_tokens(name, tmp_path):
    model = make_model(name)
    ids = prompt(name)
    expected_logits, expected_tokens = theirs(model, ids)
    model.save_pretrained(tmp_path / "model")
    # Dynamic rope turns keys by the length of the text when they are read, so the prompt has to be read at once.
    options = ["context=0"] if "dynamic" in name else []
    logits, tokens = ours(tmp_path / "model", ids, tmp_path, *options)
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-4)
    assert tokens == expected_tokens
    assert len(set(tokens)) > 4, "a model that repeats itself tells nothing apart"


@pytest.mark.parametrize("name", ["llama", "mistral_window", "llama_dynamic_beyond"])
def test_reading_in_pieces_gives_the_same(name, tmp_path):
    model = make_model(name)
    ids = prompt(name)
    expected_logits, expected_tokens = theirs(model, ids)
    model.save_pretrained(tmp_path / "model")
    logits, tokens = ours(tmp_path / "model", ids, tmp_path, "pass=37")
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-4)
    if "dynamic" not in name:
        assert tokens == expected_tokens


def test_shards_give_the_same_bits_as_a_single_file(tmp_path):
    model = make_model("qwen3")
    ids = prompt("qwen3")
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert run(tmp_path / "single", ids, tmp_path) == run(tmp_path / "sharded", ids, tmp_path)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral_window"])
def test_bfloat16_is_as_close_to_float32_as_transformers_bfloat16(name, tmp_path):
    make_model(name).bfloat16().save_pretrained(tmp_path / "model")
    ids = prompt(name)
    exact, peer = (logits_of(MODELS[name][0].from_pretrained(tmp_path / "model", dtype=dtype), ids)
                   for dtype in (torch.float32, torch.bfloat16))
    logits, _ = ours(tmp_path / "model", ids, tmp_path)

    def error(x):
        return np.sqrt(np.mean((x - exact) ** 2))

    assert error(logits) < 1.2 * error(peer)
    # The same weights computed in float32.
    wide, _ = ours(tmp_path / "model", ids, tmp_path, "dtype=float32")
    np.testing.assert_allclose(wide, exact, rtol=0, atol=1e-4)


def test_the_version_4_spelling_of_a_config_is_read(tmp_path):
    import json
    model = make_model("llama_llama3")
    ids = prompt("llama_llama3")
    model.save_pretrained(tmp_path / "model")
    expected = run(tmp_path / "model", ids, tmp_path)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))
    assert run(tmp_path / "model", ids, tmp_path) == expected
