"""ResearchAttention: construction, the step, metrics, and maskers written in Python."""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sparse_attention_hub import MicroMetricLogger
from sparse_attention_hub.sparse_attention import (
    AdaptiveSamplingMaskerConfig,
    ChannelConfig,
    DoubleSparsity,
    DoubleSparsityConfig,
    EfficientAttention,
    EfficientAttentionConfig,
    FixedMaskerConfig,
    HashAttention,
    HashAttentionConfig,
    LocalMaskerConfig,
    Mask,
    MaskerConfig,
    MaskerRegistry,
    OracleTopKConfig,
    QuestTopKMaskerConfig,
    RandomSamplingMaskerConfig,
    ResearchAttention,
    ResearchAttentionConfig,
    ResearchMasker,
    SinkMasker,
    SinkMaskerConfig,
    SocketMaskerConfig,
    SparseAttention,
    SparseAttentionConfig,
)

HEADS, KV_HEADS, QUERIES, KEYS, DIM, VALUE_DIM = 4, 2, 3, 40, 16, 8


def step(dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, HEADS, QUERIES, DIM, generator=generator).to(dtype)
    keys = torch.randn(2, KV_HEADS, KEYS, DIM, generator=generator).to(dtype)
    values = torch.randn(2, KV_HEADS, KEYS, VALUE_DIM, generator=generator).to(dtype)
    future = torch.full((QUERIES, KEYS), torch.finfo(dtype).min, dtype=dtype).triu(KEYS - QUERIES + 1)
    return queries, keys, values, future[None, None], DIM**-0.5, 0.0


def reference(mask: torch.Tensor, sinks: torch.Tensor | None = None) -> torch.Tensor:
    """float64 attention over the keys of `mask`, each divided by its weight: [batch, queries, heads, dim]."""
    queries, keys, values, future, scale, _ = step()
    keys, values = (x.double().repeat_interleave(HEADS // KV_HEADS, 1) for x in (keys, values))
    logits = queries.double() @ keys.transpose(2, 3) * scale + future.double()
    weights = torch.exp(logits) * torch.where(mask > 0, 1 / mask.double().clamp_min(1e-300), 0)
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sinks.double()).view(1, HEADS, 1, 1)
    return (weights @ values / total).transpose(1, 2)


class KeepsEveryNth(ResearchMasker):
    """A masker of a user: plain Python."""

    def add_mask(self, keys: torch.Tensor, queries: torch.Tensor, *args: Any, **kwargs: Any) -> Mask:
        previous: Mask = kwargs["previous_mask"]
        weights = torch.zeros(previous.shape, dtype=previous.dtype)
        weights[..., :: self.config.n] = 1  # type: ignore[attr-defined]
        mine = Mask.create_mask_from_dense_mask(previous.shape, weights, previous.dtype)
        return previous.merge_mask(mine, inplace=False)

    @classmethod
    def create_from_config(cls, config: MaskerConfig) -> KeepsEveryNth:
        return cls(config)


@dataclass
class KeepsEveryNthConfig(MaskerConfig):
    n: int = 5


@pytest.fixture
def python_masker() -> Any:
    MaskerRegistry.register(KeepsEveryNthConfig)(KeepsEveryNth)
    yield KeepsEveryNthConfig(5)
    MaskerRegistry._registry.pop(KeepsEveryNthConfig)


@pytest.fixture
def logger(tmp_path: pathlib.Path) -> Any:
    MicroMetricLogger._instance = None
    MicroMetricLogger._initialized = False
    logger = MicroMetricLogger()
    logger.configure_logging(str(tmp_path), enabled_metrics="all")
    yield logger
    MicroMetricLogger._instance = None
    MicroMetricLogger._initialized = False


def make(*configs: MaskerConfig, **options: Any) -> ResearchAttention:
    return ResearchAttention.create_from_config(ResearchAttentionConfig(list(configs), **options))


def test_the_factory_dispatches_on_the_config() -> None:
    assert type(SparseAttention.create_from_config(ResearchAttentionConfig([]))) is ResearchAttention
    hash_config = HashAttentionConfig(8, 4, 4, {}, 32, 3, 128)
    channels = DoubleSparsityConfig(8, 4, 4, ChannelConfig(), 4, 16)
    assert type(SparseAttention.create_from_config(hash_config)) is HashAttention
    assert type(EfficientAttention.create_from_config(channels)) is DoubleSparsity
    with pytest.raises(TypeError, match="Expected ResearchAttentionConfig, got"):
        ResearchAttention.create_from_config(hash_config)
    with pytest.raises(TypeError, match="Expected EfficientAttentionConfig, got"):
        EfficientAttention.create_from_config(ResearchAttentionConfig([]))
    with pytest.raises(TypeError, match="Expected DoubleSparsityConfig, got"):
        DoubleSparsity.create_from_config(hash_config)
    with pytest.raises(ValueError, match="No efficient attention class found for config type"):
        EfficientAttention.create_from_config(EfficientAttentionConfig())


def test_bases_are_abstract_and_can_be_subclassed() -> None:
    with pytest.raises(TypeError):
        SparseAttention(SparseAttentionConfig())  # type: ignore[abstract]

    class Mine(SparseAttention):
        def custom_attention(self, *args: Any, **kwargs: Any) -> Any:
            return None

    mine = Mine.create_from_config(SparseAttentionConfig())
    assert type(mine) is Mine
    assert mine.pre_attention_hook_generator() is None


def test_two_sampling_maskers_are_refused() -> None:
    with pytest.raises(ValueError, match="Only one sampling masker supported for efficiency"):
        make(RandomSamplingMaskerConfig(0.1), AdaptiveSamplingMaskerConfig(0.1, 0.1, 0.1, 0, 0))


def test_meta_data_must_be_given() -> None:
    with pytest.raises(ValueError, match="sparse_meta_data must be provided in kwargs"):
        make().custom_attention(None, *step())


def test_without_maskers_attention_is_dense() -> None:
    for attention in (make(), make(FixedMaskerConfig())):
        output, weights = attention.custom_attention(None, *step(), sparse_meta_data={})
        assert output.shape == (2, QUERIES, HEADS, VALUE_DIM)
        assert output.is_contiguous()
        torch.testing.assert_close(output.double(), reference(torch.ones(1)), atol=1e-6, rtol=1e-5)
        assert weights is not None
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, QUERIES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_against_float64(dtype: torch.dtype) -> None:
    attention = make(SinkMaskerConfig(2), LocalMaskerConfig(4), OracleTopKConfig(6))
    arguments = step(dtype)
    mask = attention.build_mask(*arguments, sparse_meta_data={}).get_dense_mask()
    assert bool((mask.sum(-1) == 12).all())
    output, weights = attention.custom_attention(None, *arguments, sparse_meta_data={})
    assert output.dtype == weights.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(output.double(), reference(mask), atol=1e-6, rtol=1e-5)
    else:  # inputs are rounded: compare at the rounding of the type
        torch.testing.assert_close(output.double(), reference(mask), atol=0.03, rtol=0.05)


def test_one_row_of_an_attention_mask_counts_for_every_query() -> None:
    queries, keys, values, _, *rest = step()
    one = torch.zeros(2, 1, 1, KEYS)
    one[0, ..., 4:9] = -torch.inf
    for attention in (make(SinkMaskerConfig(2), LocalMaskerConfig(4), OracleTopKConfig(6)), make()):
        a, wa = attention.custom_attention(None, queries, keys, values, one, *rest, sparse_meta_data={})
        each = one.expand(2, 1, QUERIES, KEYS).contiguous()
        b, wb = attention.custom_attention(None, queries, keys, values, each, *rest, sparse_meta_data={})
        assert torch.equal(a, b)
        assert wa is not None and wb is not None and torch.equal(wa, wb)
        assert not wa[0, ..., 4:9].any() and wa[1].any()


@pytest.mark.parametrize("config", [QuestTopKMaskerConfig(8, 4), SocketMaskerConfig(6, 3, 6)], ids=["quest", "socket"])
def test_a_bias_that_forbids_in_a_masker_is_added_in_attention(config: MaskerConfig) -> None:
    """Quest and Socket take numbers below 0 for forbidden; attention adds them as they are."""
    queries, keys, values, future, scale, _ = step()
    bias = future.clone()
    bias[..., 10:20] = -0.5
    attention = make(SinkMaskerConfig(12), config)
    output, weights = attention.custom_attention(None, queries, keys, values, bias, scale, 0.0, sparse_meta_data={})
    mask = attention.build_mask(queries, keys, values, bias, scale, 0.0, sparse_meta_data={}).get_dense_mask()
    assert bool((mask[..., :12] == 1).all()) and not mask[..., 12:20].any() and mask[..., 20:].any()
    logits = queries.double() @ keys.double().repeat_interleave(HEADS // KV_HEADS, 1).transpose(2, 3) * scale
    expected = (logits + bias.double()).masked_fill(mask == 0, -torch.inf).softmax(-1)
    assert weights is not None
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-5)
    by_head = expected @ values.double().repeat_interleave(HEADS // KV_HEADS, 1)
    torch.testing.assert_close(output.double(), by_head.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_learned_sinks_take_mass_and_other_arguments_are_passed_on() -> None:
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0])
    attention = make(SinkMaskerConfig(2), LocalMaskerConfig(4))
    mask = attention.build_mask(*step(), sparse_meta_data={}).get_dense_mask()
    output, weights = attention.custom_attention(
        None, *step(), sparse_meta_data={}, s_aux=sinks, layer_idx=3, cache_position=None
    )
    torch.testing.assert_close(output.double(), reference(mask, sinks), atol=1e-6, rtol=1e-5)
    assert bool((weights.sum(-1) < 1).all())


@pytest.mark.parametrize("value", [True, False])
def test_a_bool_mask_of_one_value_hides_nothing(value: bool) -> None:
    queries, keys, values, _, scale, dropout = step()
    run = lambda mask: make(SinkMaskerConfig(2), OracleTopKConfig(4)).custom_attention(  # noqa: E731
        None, queries, keys, values, mask, scale, dropout, sparse_meta_data={}
    )[0]
    mask = torch.full((1, 1, QUERIES, KEYS), value)
    assert torch.equal(run(mask), run(None))
    mask[..., 3] = not value
    with pytest.raises(ValueError, match="ResearchAttention: attention_mask must be additive"):
        run(mask)


def test_a_softcap_caps_the_logits(python_masker: KeepsEveryNthConfig) -> None:
    queries, keys, values, future, scale, _ = step()
    output, _ = make().custom_attention(None, *step(), sparse_meta_data={}, softcap=0.5)
    repeated, v = (x.double().repeat_interleave(HEADS // KV_HEADS, 1) for x in (keys, values))
    logits = 0.5 * torch.tanh(queries.double() @ repeated.transpose(2, 3) * scale / 0.5) + future.double()
    torch.testing.assert_close(output.double(), (logits.softmax(-1) @ v).transpose(1, 2), atol=1e-6, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="softcap 0.5"):
        make(python_masker).custom_attention(None, *step(), sparse_meta_data={}, softcap=0.5)


def test_a_python_masker_works_with_those_of_the_library(python_masker: KeepsEveryNthConfig) -> None:
    mixed = make(SinkMaskerConfig(2), python_masker, OracleTopKConfig(4))
    mask = mixed.build_mask(*step(), sparse_meta_data={}).get_dense_mask()
    assert bool((mask[..., ::5] == 1).all())
    assert bool((mask.sum(-1) == len({0, 1} | set(range(0, KEYS, 5))) + 4).all())
    output, _ = mixed.custom_attention(None, *step(), sparse_meta_data={}, layer_idx=0)
    torch.testing.assert_close(output.double(), reference(mask), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="KeepsEveryNth"):
        make(python_masker, selection="kv_group")


def test_a_replaced_method_is_called() -> None:
    attention = make(SinkMaskerConfig(2))
    calls = []

    def add_mask(**kwargs: Any) -> Mask:
        calls.append(kwargs["layer_idx"])
        return Mask.create_full_mask(kwargs["previous_mask"].shape, torch.float32, torch.device("cpu"))

    attention.maskers[0].add_mask = add_mask  # type: ignore[method-assign]
    output, _ = attention.custom_attention(None, *step(), sparse_meta_data={}, layer_idx=7)
    assert calls == [7]
    torch.testing.assert_close(output.double(), reference(torch.ones(1)), atol=1e-5, rtol=1e-4)


def test_both_ways_agree() -> None:
    """What runs in the library and what runs masker after masker are one definition."""

    class SameSink(SinkMasker):
        def add_mask(self, *args: Any, **kwargs: Any) -> Mask:
            return super().add_mask(*args, **kwargs)

    for configs in ((SinkMaskerConfig(2), LocalMaskerConfig(4)), (SinkMaskerConfig(2), RandomSamplingMaskerConfig(0.3))):
        in_core = make(*configs)
        in_python = make(*configs)
        in_python.maskers[0] = SameSink(configs[0])
        a, wa = in_core.custom_attention(None, *step(), sparse_meta_data={}, layer_idx=1)
        b, wb = in_python.custom_attention(None, *step(), sparse_meta_data={}, layer_idx=1)
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(wa, wb, atol=2e-6, rtol=1e-5)


def test_seed_and_selection_reach_the_maskers() -> None:
    draw = lambda **options: make(RandomSamplingMaskerConfig(0.3), **options).build_mask(  # noqa: E731
        *step(), sparse_meta_data={}
    ).get_dense_mask()
    assert torch.equal(draw(), draw(seed=42))
    assert not torch.equal(draw(), draw(seed=43))
    by_group = make(OracleTopKConfig(4), selection="kv_group").build_mask(*step(), sparse_meta_data={}).get_dense_mask()
    assert torch.equal(by_group[:, 0], by_group[:, 1])
    by_head = make(OracleTopKConfig(4)).build_mask(*step(), sparse_meta_data={}).get_dense_mask()
    assert not torch.equal(by_head[:, 0], by_head[:, 1])


def test_weights_can_be_left_out() -> None:
    attention = make(SinkMaskerConfig(2))
    attention.return_attention_weights = False
    _, weights = attention.custom_attention(None, *step(), sparse_meta_data={})
    assert weights is None


def test_metrics(logger: MicroMetricLogger, tmp_path: pathlib.Path, python_masker: KeepsEveryNthConfig) -> None:
    registered = MicroMetricLogger.get_registered_metrics()
    assert registered["research_attention_density"] is float
    assert registered["research_attention_output_error"] is float
    make(SinkMaskerConfig(10)).custom_attention(None, *step(), sparse_meta_data={}, layer_idx=5)
    make(python_masker).custom_attention(None, *step(), sparse_meta_data={}, layer_idx=6)
    make().custom_attention(None, *step(), sparse_meta_data={})
    logger.flush()
    lines = [json.loads(line) for line in (tmp_path / "micro_metrics.jsonl").read_text().splitlines()]
    density = [line for line in lines if line["metric"] == "research_attention_density"]
    error = [line for line in lines if line["metric"] == "research_attention_output_error"]
    assert [line["value"] for line in density] == [0.25, 0.2, 0.0]  # the empty flag counts as 0, as in the hub
    assert [line["metadata"]["layer_idx"] for line in density] == [5, 6, -1]
    mask = torch.zeros(1, 1, 1, KEYS)
    mask[..., :10] = 1
    dense = reference(torch.ones(1))
    expected = float((reference(mask) - dense).norm() / dense.norm())
    assert error[0]["value"] == pytest.approx(expected, rel=1e-5)
    assert error[2]["value"] < 1e-6


def test_the_error_with_a_bool_mask(logger: MicroMetricLogger, tmp_path: pathlib.Path) -> None:
    queries, keys, values, future, scale, _ = step()
    outputs = []
    for mask in (future < 0, future):
        output, _ = make(SocketMaskerConfig(6, 3, 6)).custom_attention(
            None, queries, keys, values, mask, scale, 0.0, sparse_meta_data={}
        )
        outputs.append(output)
    logger.flush()
    lines = [json.loads(line) for line in (tmp_path / "micro_metrics.jsonl").read_text().splitlines()]
    errors = [line["value"] for line in lines if line["metric"] == "research_attention_output_error"]
    assert torch.equal(*outputs)
    assert errors[0] == errors[1] > 0


def test_the_error_counts_learned_sinks(logger: MicroMetricLogger, tmp_path: pathlib.Path) -> None:
    make().custom_attention(None, *step(), sparse_meta_data={}, s_aux=torch.tensor([0.5, -1.0, 2.0, 0.0]))
    logger.flush()
    lines = [json.loads(line) for line in (tmp_path / "micro_metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["metric"] == "research_attention_output_error"
    assert lines[-1]["value"] < 1e-6


def test_dropout_while_training() -> None:
    module = torch.nn.Linear(1, 1).train()
    arguments = (*step()[:5], 0.5)
    attention = make(SinkMaskerConfig(10))
    torch.manual_seed(0)
    dropped, _ = attention.custom_attention(module, *arguments, sparse_meta_data={})
    kept, _ = attention.custom_attention(module.eval(), *arguments, sparse_meta_data={})
    assert not torch.allclose(dropped, kept)
