"""HashAttention and DoubleSparsity: the efficient twins of sink, local and their masker."""

from __future__ import annotations

import json
import pathlib
import pickle
from typing import Any

import pytest
import torch

from sparse_attention_hub import _core
from sparse_attention_hub._pipeline import pipeline_json
from sparse_attention_hub.sparse_attention import (
    ChannelConfig,
    DoubleSparsityConfig,
    DoubleSparsityTopKMaskerConfig,
    EfficientAttentionConfig,
    HashAttention,
    HashAttentionConfig,
    HashAttentionTopKMaskerConfig,
    LocalMaskerConfig,
    ResearchAttention,
    ResearchAttentionConfig,
    SinkMaskerConfig,
    SparseAttention,
)
from sparse_attention_hub.sparse_attention.utils.hashattention_utils import save_hat_weights

HEADS, KV_HEADS, DIM, KEYS, LAYER, SCALE = 4, 2, 16, 90, 3, 0.25


def hash_weights() -> dict[int, dict[str, list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        LAYER: {
            f"{side}_{kind}": [draw(HEADS, DIM, 8), draw(HEADS, 8, 32)]
            if kind == "matrix"
            else [draw(HEADS, 8), draw(HEADS, 32)]
            for side in ("query", "key")
            for kind in ("matrix", "bias")
        }
    }


@pytest.fixture
def hat_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "hat.safetensors"
    save_hat_weights(hash_weights(), path, torch.float32)
    return str(path)


@pytest.fixture
def channel_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "channels.json"
    generator = torch.Generator().manual_seed(6)
    lists = {
        f"model.layers.{LAYER}.self_attn.{part}": [torch.randperm(DIM, generator=generator).tolist() for _ in range(HEADS)]
        for part in ("qk_proj", "k_proj")
    }
    path.write_text(json.dumps(lists))
    return str(path)


def tensors(batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [batch, heads, KEYS, dim], keys and values."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, HEADS, KEYS, DIM, generator=generator).to(dtype),
        torch.randn(batch, KV_HEADS, KEYS, DIM, generator=generator).to(dtype),
        torch.randn(batch, KV_HEADS, KEYS, DIM, generator=generator).to(dtype),
    )


def causal_mask(begin: int, end: int, paddings: tuple[int, ...] = (0,), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Additive, [len(paddings), 1, end - begin, end]."""
    at, of = torch.arange(begin, end)[:, None], torch.arange(end)
    seen = (of <= at) & (of >= torch.tensor(paddings).view(-1, 1, 1, 1))
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


STEPS = ((0, 80), (80, 85), (85, 86), (86, 90))


def outputs(attention: Any, dtype: torch.dtype = torch.float32, masks: bool = True) -> list[torch.Tensor]:
    """Steps of one sequence."""
    q, k, v = tensors(dtype=dtype)
    meta: dict[str, Any] = {}
    outs = []
    for begin, end in STEPS:
        mask = causal_mask(begin, end, dtype=dtype) if masks else None
        step = q[:, :, begin:end], k[:, :, :end], v[:, :, :end], mask, SCALE, 0.0
        out, _ = attention.custom_attention(None, *step, sparse_meta_data=meta, layer_idx=LAYER)
        outs.append(out)
    return outs


def written_out(masker: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """The same steps of the pipeline written out, through the operator."""
    maskers = [{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 0.1}, masker]
    sequence = _core.Sequence(_core.HostAttention(json.dumps({"type": "efficient", "maskers": maskers})))
    q, k, v = tensors(dtype=dtype)
    outs = []
    for begin, end in STEPS:
        out = torch.ops.sparse_attention_hub.attend(
            sequence.handle, q[:, :, begin:end], k[:, :, :end], v[:, :, :end], None, None, SCALE, None, None, True, LAYER, None
        )
        outs.append(out.transpose(1, 2))
    return outs


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hash_attention_is_its_pipeline(hat_file: str, tmp_path: pathlib.Path, dtype: torch.dtype) -> None:
    expected = written_out({"type": "hash_attention_top_k", "heavy_size": 12, "hat_weight_file": hat_file}, dtype)
    dumped = tmp_path / "hat.pkl"
    dumped.write_bytes(pickle.dumps(hash_weights()))
    for weights in (hat_file, pathlib.Path(hat_file), hash_weights(), str(dumped)):
        attention = SparseAttention.create_from_config(HashAttentionConfig(12, 4, 0.1, weights, 32, 2, 8))
        assert type(attention) is HashAttention
        outs = outputs(attention, dtype)
        assert same(outs, expected)
        assert outs[0].dtype == dtype and outs[0].shape == (2, 80, HEADS, DIM)
    other = SparseAttention.create_from_config(HashAttentionConfig(13, 4, 0.1, hat_file, 32, 2, 8))
    assert not same(outputs(other, dtype), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_double_sparsity_is_its_pipeline(channel_file: str, dtype: torch.dtype) -> None:
    masker = {"type": "double_sparsity_top_k", "heavy_size": 0.15, "sorted_channel_file": channel_file}
    by_keys = {**masker, "group_factor": 2, "label_bits": 16, "channel_selection": "k_proj"}
    of = lambda *fields: SparseAttention.create_from_config(DoubleSparsityConfig(0.15, 4, 0.1, *fields))  # noqa: E731
    expected = written_out({**masker, "group_factor": 4, "label_bits": 4}, dtype)
    for channels, factor in ((channel_file, 4), (channel_file, 4.0), (ChannelConfig(channel_file), 4)):
        assert same(outputs(of(channels, 4, factor), dtype), expected)
    outs = outputs(of(ChannelConfig(channel_file, "k_proj"), 16, 2), dtype)
    assert same(outs, written_out(by_keys, dtype))
    assert not same(outs, expected)


def test_the_research_engine_defines_them(hat_file: str, channel_file: str) -> None:
    fixed = [SinkMaskerConfig(4), LocalMaskerConfig(8)]
    pairs = [
        (
            HashAttentionConfig(12, 4, 8, hash_weights(), 32, 2, 8),
            HashAttentionTopKMaskerConfig(12, 32, 2, 8, "silu", hat_weights=hash_weights()),
        ),
        (
            DoubleSparsityConfig(12, 4, 8, channel_file, 16, 2),
            DoubleSparsityTopKMaskerConfig(12, channel_file, group_factor=2, label_bits=16),
        ),
    ]
    for efficient, masker in pairs:
        research = ResearchAttention.create_from_config(ResearchAttentionConfig([*fixed, masker]))
        research.return_attention_weights = False
        # From the second step on: Double Sparsity takes all keys where a step's queries leave too few others.
        actual = outputs(SparseAttention.create_from_config(efficient))[1:]
        for a, b in zip(actual, outputs(research)[1:]):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_left_padding_is_cut_off(hat_file: str) -> None:
    attention = SparseAttention.create_from_config(HashAttentionConfig(12, 4, 8, hat_file, 32, 2, 8))
    paddings = (0, 7, 7, 82)
    q, k, v = tensors(batch=4)
    meta: dict[str, Any] = {}
    alone: list[dict[str, Any]] = [{} for _ in paddings]
    for begin, end in STEPS:
        mask = causal_mask(begin, end, paddings)
        out, _ = attention.custom_attention(
            None, q[:, :, begin:end], k[:, :, :end], v[:, :, :end], mask, SCALE, 0.0, sparse_meta_data=meta, layer_idx=LAYER
        )
        for row, padding in enumerate(paddings):
            first = max(begin, padding)
            assert not out[row, : first - begin].any()
            if first >= end:
                continue
            step = (x[row : row + 1] for x in (q[:, :, first:end], k[:, :, padding:end], v[:, :, padding:end]))
            mine = causal_mask(first - padding, end - padding)
            expected, _ = attention.custom_attention(
                None, *step, mine, SCALE, 0.0, sparse_meta_data=alone[row], layer_idx=LAYER
            )
            assert torch.equal(out[row : row + 1, first - begin :], expected)


def test_masks_and_arguments_that_are_refused(hat_file: str) -> None:
    attention = SparseAttention.create_from_config(HashAttentionConfig(12, 4, 8, hat_file, 32, 2, 8))
    q, k, v = tensors()
    step = q[:, :, -3:], k, v
    run = lambda mask, **kwargs: attention.custom_attention(  # noqa: E731
        kwargs.pop("module", None), *step, mask, SCALE, kwargs.pop("dropout", 0.0), layer_idx=LAYER, **kwargs
    )[0]
    mask = causal_mask(KEYS - 3, KEYS)
    expected = run(mask, sparse_meta_data={})
    assert torch.equal(run(mask, sparse_meta_data=None), expected)
    assert torch.equal(run(mask[0, 0], sparse_meta_data={}), expected)
    assert torch.equal(run(mask[0].expand(2, -1, -1), sparse_meta_data={}), expected)
    longer = torch.cat([mask, torch.full((1, 1, 3, 5), -torch.inf)], -1)
    assert torch.equal(run(longer, sparse_meta_data={}), expected)
    with pytest.raises(ValueError, match="sparse_meta_data must be provided in kwargs"):
        run(mask)
    with pytest.raises(NotImplementedError, match="causal"):  # None: every query sees every key
        run(None, sparse_meta_data={})
    hole = mask.clone()
    hole[..., 5] = -torch.inf
    biased = mask.clone()
    biased[..., 5] = -0.5
    window = mask.clone()
    window[..., 2, :4] = -torch.inf
    for wrong in (hole, biased, window, mask[..., :-1], mask[:, :, :1], mask[:, :, 1:], torch.zeros_like(mask)):
        with pytest.raises(NotImplementedError, match="HashAttention: attention_mask must be causal"):
            run(wrong, sparse_meta_data={})
    with pytest.raises(ValueError, match="HashAttention: attention_mask must be additive"):
        run(mask == 0, sparse_meta_data={})
    with pytest.raises(NotImplementedError, match="dropout is not supported, got 0.5"):
        run(mask, sparse_meta_data={}, module=torch.nn.Linear(1, 1).train(), dropout=0.5)


def test_learned_sinks_take_mass(hat_file: str) -> None:
    attention = SparseAttention.create_from_config(HashAttentionConfig(12, 4, 8, hat_file, 32, 2, 8))
    q, k, v = tensors()
    step = q[:, :, -1:], k, v, None, SCALE, 0.0
    out, weights = attention.custom_attention(None, *step, sparse_meta_data={}, layer_idx=LAYER)
    high = torch.full((HEADS,), 50.0)
    less, _ = attention.custom_attention(None, *step, sparse_meta_data={}, layer_idx=LAYER, s_aux=high)
    assert weights is None and out.abs().max() > 0.05 and less.abs().max() < 1e-6


def test_values_are_checked_where_attention_first_runs(hat_file: str, channel_file: str, tmp_path: pathlib.Path) -> None:
    q, k, v = tensors()
    missing = str(tmp_path / "no.safetensors")
    cases: list[tuple[EfficientAttentionConfig, type[Exception], str]] = [
        (HashAttentionConfig(0, 4, 4, hat_file, 32, 2, 8), ValueError, "hash_attention.heavy_size must be > 0, got 0"),
        (HashAttentionConfig(1, -4, 4, hat_file, 32, 2, 8), ValueError, "hash_attention.sink_size must be >= 0, got -4"),
        (HashAttentionConfig(1, 4, 4, missing, 32, 2, 8), KeyError, r"pipeline.maskers\[2\]: hash_attention_top_k.hat_weight_file"),
        (HashAttentionConfig(1, 4, 4, {}, 32, 2, 8), ValueError, "hat_weights must be a dictionary of layers"),
        (HashAttentionConfig(1, 4, 4, {0: {"query_matrix": 3}}, 32, 2, 8), ValueError, "hat_weights: layer 0: query_matrix"),
        (DoubleSparsityConfig(1, 4, "x", channel_file, 4, 4), ValueError, "double_sparsity.local_size must be an integer"),
        (DoubleSparsityConfig(1, 4, 4, channel_file, 17, 4), ValueError, "double_sparsity.ds_bits must be in range"),
        (DoubleSparsityConfig(1, 4, 4, channel_file, 4, 4.5), ValueError, "ds_group_factor must be an integer, got 4.5"),
        (DoubleSparsityConfig(1, 4, 4, ChannelConfig(), 4, 4), ValueError, "ds_channel_config.sorted_channel_file must not be empty"),
        (DoubleSparsityConfig(1, 4, 4, 3, 4, 4), TypeError, "ds_channel_config must be a ChannelConfig"),  # type: ignore[arg-type]
    ]
    for config, error, message in cases:
        attention = SparseAttention.create_from_config(config)
        with pytest.raises(error, match=message):
            attention.custom_attention(None, q[:, :, -1:], k, v, None, SCALE, 0.0, sparse_meta_data={}, layer_idx=LAYER)


def test_configs_are_pipelines(hat_file: str, channel_file: str) -> None:
    """Wherever a pipeline is asked for, a config will do."""
    config = HashAttentionConfig(12, 4, 0, hat_file, 32, 2, 8)
    assert json.loads(pipeline_json(config))["maskers"] == [
        {"type": "sink", "sink_size": 4},
        {"type": "hash_attention_top_k", "hat_weight_file": hat_file, "heavy_size": 12},
    ]
    dump = {"type": "DoubleSparsityConfig", "params": vars(DoubleSparsityConfig(12, 4, 8, channel_file, 4, 4))}
    pipeline = json.loads(pipeline_json(dump))
    assert pipeline["type"] == "efficient" and pipeline["maskers"][2]["sorted_channel_file"] == channel_file
    assert pipeline == json.loads(pipeline_json(DoubleSparsityConfig(12, 4, 8, channel_file, 4, 4)))
    with pytest.raises(TypeError, match="weights in memory"):
        pipeline_json(HashAttentionConfig(12, 4, 8, hash_weights(), 32, 2, 8))
    with pytest.raises(TypeError, match="EfficientAttentionConfig is no pipeline"):
        pipeline_json(EfficientAttentionConfig())
