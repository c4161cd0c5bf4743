"""config.json as the C++ reader sees it against what transformers' models are built from.

Random configurations of each family are saved by transformers (the form of version 5) and rewritten into the form of
version 4; both must say what the model that transformers builds from them is.
"""

import json
import os
import random
import subprocess

import pytest
import torch
import transformers

PROGRAM = os.path.abspath(os.environ["SA_MODEL_CONFIG_DUMP"])
FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]


def dump(folders):
    run = subprocess.run([PROGRAM, *map(str, folders)], capture_output=True, check=True)
    return [json.loads(line) for line in run.stdout.decode().splitlines()]


def random_rope(rng):
    kind = rng.choice(["default", "linear", "dynamic", "llama3", "yarn"])
    rope = {"rope_type": kind}
    if rng.random() < 0.8:
        rope["rope_theta"] = rng.choice([10000.0, 500000.0, 1e6])
    if kind != "default":
        rope["factor"] = rng.choice([1.0, 2.0, 4.0, 32.0])
    if kind == "llama3":
        rope.update(low_freq_factor=1.0, high_freq_factor=4.0)
    if kind in ("llama3", "yarn") and (kind == "llama3" or rng.random() < 0.7):
        rope["original_max_position_embeddings"] = rng.choice([64, 128])
    if kind == "yarn":
        if rng.random() < 0.3:
            rope.update(mscale=1.1, mscale_all_dim=0.7)
        if rng.random() < 0.2:
            rope["attention_factor"] = 0.9
    return rope


def random_config(rng, family):
    heads = rng.choice([4, 8])
    fields = {
        "vocab_size": rng.choice([50, 64]),
        "hidden_size": heads * rng.choice([4, 8]),
        "intermediate_size": 24,
        "num_hidden_layers": rng.randrange(1, 5),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, 4]),
        "max_position_embeddings": rng.choice([128, 256]),
        "rms_norm_eps": rng.choice([1e-5, 1e-6]),
        "tie_word_embeddings": rng.random() < 0.5,
        "rope_parameters": random_rope(rng),
        "eos_token_id": rng.choice([None, 3, [4, 5]]),
        "dtype": rng.choice(["bfloat16", "float16", "float32", None]),
    }
    if rng.random() < 0.5:
        fields["head_dim"] = rng.choice([6, 16])
    if family in ("llama", "qwen3"):
        fields["attention_bias"] = rng.random() < 0.5
    if family == "llama":
        fields["mlp_bias"] = rng.random() < 0.5
    if family == "mistral":
        fields["sliding_window"] = rng.choice([None, 16])
    if family in ("qwen2", "qwen3"):
        fields["use_sliding_window"] = rng.random() < 0.6
        fields["sliding_window"] = 16
        fields["max_window_layers"] = rng.randrange(4)
    return transformers.AutoConfig.for_model(family, **fields)


def as_version_4(config):
    """The same configuration with the field names of transformers 4."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", None)
    config.pop("layer_types", None)
    return config


def model_facts(folder):
    """What the model that transformers builds from the folder is made of."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    attention = [layer.self_attn for layer in model.model.layers]
    first = attention[0]
    # Mistral's attention reads the window from the configuration.
    windows = [getattr(a, "sliding_window", None) for a in attention]
    if config.model_type == "mistral":
        windows = [config.sliding_window] * len(attention)
    eos = config.eos_token_id
    rotary = transformers.AutoModelForCausalLM.from_config(config).model.rotary_emb
    return {
        "model_type": config.model_type,
        "vocab_size": model.model.embed_tokens.num_embeddings,
        "hidden_size": config.hidden_size,
        "intermediate_size": model.model.layers[0].mlp.gate_proj.out_features,
        "num_hidden_layers": len(attention),
        "num_attention_heads": first.q_proj.out_features // first.head_dim,
        "num_key_value_heads": first.k_proj.out_features // first.head_dim,
        "head_dim": first.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": model.model.norm.variance_epsilon,
        "tie_word_embeddings": config.tie_word_embeddings,
        "sliding_windows": [w or 0 for w in windows],
        "qkv_bias": first.q_proj.bias is not None,
        "o_bias": first.o_proj.bias is not None,
        "mlp_bias": model.model.layers[0].mlp.up_proj.bias is not None,
        "qk_norm": hasattr(first, "q_norm"),
        "dtype": str(config.dtype).removeprefix("torch.") if config.dtype is not None else "",
        "eos_token_ids": [] if eos is None else [eos] if isinstance(eos, int) else eos,
        "rope_type": config.rope_parameters["rope_type"],
        "rope_theta": config.rope_parameters["rope_theta"],
        "attention_scaling": pytest.approx(rotary.attention_scaling, rel=1e-12),
    } | {
        name: config.rope_parameters[name]
        for name in ("factor", "low_freq_factor", "high_freq_factor")
        if config.rope_parameters.get(name) is not None
    } | (
        {"original_max_position_embeddings": config.rope_parameters["original_max_position_embeddings"]}
        if config.rope_parameters["rope_type"] in ("llama3", "yarn")
        else {}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_both_forms_say_what_transformers_builds(family, tmp_path):
    rng = random.Random(family)
    folders = []
    for i in range(40):
        new, old = tmp_path / f"{i}_v5", tmp_path / f"{i}_v4"
        random_config(rng, family).save_pretrained(new)
        saved = json.loads((new / "config.json").read_text())
        old.mkdir()
        (old / "config.json").write_text(json.dumps(as_version_4(saved)))
        folders += [new, old]
    seen = set()
    for folder, got in zip(folders, dump(folders)):
        assert "error" not in got, got
        expected = model_facts(folder)
        assert {name: got[name] for name in expected} == expected, folder
        seen.add((expected["rope_type"], tuple(expected["sliding_windows"])))
    assert {rope for rope, _ in seen} == {"default", "linear", "dynamic", "llama3", "yarn"}


def test_fields_left_out_take_the_same_defaults(tmp_path):
    """A file with only the sizes: every other field is the class's default."""
    folders = []
    for family in FAMILIES:
        folder = tmp_path / family
        folder.mkdir()
        sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 30,
                 "num_attention_heads": 32}  # fmt: skip
        (folder / "config.json").write_text(json.dumps({"model_type": family, **sizes}))
        folders.append(folder)
    for folder, got in zip(folders, dump(folders)):
        expected = model_facts(folder)
        assert {name: got[name] for name in expected} == expected
