"""Configs: the hub's dataclasses, field by field the C++ library's."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest
import torch
from config_types import CONFIG_TYPES

from sparse_attention_hub import _core
from sparse_attention_hub.sparse_attention import (
    AdaptiveSamplingMaskerConfig,
    DoubleSparsityTopKMaskerConfig,
    FixedMaskerConfig,
    HashAttentionTopKMaskerConfig,
    LocalMaskerConfig,
    MagicPigConfig,
    OracleTopKConfig,
    OracleTopPMaskerConfig,
    PQCacheConfig,
    QuestTopKMaskerConfig,
    RandomSamplingMaskerConfig,
    ResearchAttentionConfig,
    SinkMaskerConfig,
    SocketMaskerConfig,
    TopKMaskerConfig,
    TopPMaskerConfig,
)
from sparse_attention_hub.sparse_attention.research_attention.base import pipeline_of_config

# The hub's constructor parameters, in its order.
HUB_FIELDS = {
    "sink": ["sink_size", "search_space"],
    "local": ["window_size", "search_space"],
    "oracle_top_k": ["heavy_size", "search_space"],
    "oracle_top_p": ["top_p", "search_space"],
    "hash_attention_top_k": [
        "heavy_size", "hat_bits", "hat_mlp_layers", "hat_mlp_hidden_size", "hat_mlp_activation", "hat_weights",
        "hat_weight_file", "search_space",
    ],
    "double_sparsity_top_k": [
        "heavy_size", "sorted_channel_file", "group_factor", "label_bits", "channel_selection", "search_space",
    ],
    "pq_cache": ["heavy_size", "pq_group_factor", "pq_bits", "kmeans_iter", "init_offset", "metric"],
    "quest_top_k": ["heavy_size", "page_size", "label_bits", "search_space"],
    "socket_top_k": ["heavy_size", "K", "L", "tau"],
    "random_sampling": ["sampling_rate", "search_space"],
    "adaptive_sampling": [
        "base_rate_sampling", "epsilon", "delta", "init_offset", "local_offset", "search_space",
    ],
    "magic_pig": ["lsh_l", "lsh_k", "center", "packing", "seed", "search_space"],
}  # fmt: skip
# Fields of Python alone: sweeps, weights in memory, and what the weights decide.
PYTHON_FIELDS = {"search_space", "hat_weights", "hat_bits", "hat_mlp_layers", "hat_mlp_hidden_size"}


def descriptors() -> dict[str, dict[str, Any]]:
    return {entry["type"]: entry for entry in _core.masker_descriptors()}


@pytest.mark.parametrize("masker_type", HUB_FIELDS)
def test_positional_fields_are_the_hubs_in_its_order(masker_type: str) -> None:
    fields = [f.name for f in dataclasses.fields(CONFIG_TYPES[masker_type]) if not f.kw_only]
    assert fields == HUB_FIELDS[masker_type]


def test_every_masker_of_the_library_has_a_config() -> None:
    assert set(descriptors()) == set(CONFIG_TYPES) | {"causal"}  # FixedMaskerConfig is the causal masker's


@pytest.mark.parametrize("masker_type", CONFIG_TYPES)
def test_fields_and_defaults_are_the_librarys(masker_type: str) -> None:
    of_library = {field["name"]: field for field in descriptors()[masker_type]["fields"]}
    of_python = {f.name: f for f in dataclasses.fields(CONFIG_TYPES[masker_type])}
    assert set(of_python) - PYTHON_FIELDS == set(of_library)
    for name, field in of_library.items():
        default = of_python[name].default
        if masker_type == "hash_attention_top_k":  # either weights or a file: the masker's to check
            continue
        if field["required"]:
            assert default is dataclasses.MISSING, name
        else:
            assert json.loads(field["default"]) == default, name


def test_a_config_is_a_value() -> None:
    a = SinkMaskerConfig(sink_size=4)
    assert a == SinkMaskerConfig(4)
    assert a != SinkMaskerConfig(4.0) or type(a.sink_size) is int
    assert a != SinkMaskerConfig(5)
    assert a != LocalMaskerConfig(4)
    assert repr(a) == "SinkMaskerConfig(sink_size=4, search_space={})"
    assert pickle.loads(pickle.dumps(a)) == a
    assert dataclasses.asdict(a) == {"sink_size": 4, "search_space": {}}
    assert dataclasses.replace(a, sink_size=7) == SinkMaskerConfig(7)


def test_search_spaces_are_not_shared() -> None:
    OracleTopKConfig(4).search_space["heavy_size"] = None
    assert OracleTopKConfig(4).search_space["heavy_size"] == {
        "grid_search": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10]
    }


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SinkMaskerConfig(0), "sink_size must be > 0, got 0"),
        (lambda: SinkMaskerConfig(-1), "sink_size must be > 0, got -1"),
        (lambda: LocalMaskerConfig(0.0), "window_size must be > 0, got 0"),
        (lambda: TopKMaskerConfig(0), "heavy_size must be > 0, got 0"),
        (lambda: OracleTopKConfig(-0.5), "heavy_size must be > 0, got -0.5"),
        (lambda: OracleTopKConfig(float("nan")), "heavy_size must be > 0, got nan"),
        (lambda: TopPMaskerConfig(1.5), r"top_p must be in range \[0, 1\], got 1.5"),
        (lambda: OracleTopPMaskerConfig(-0.1), r"top_p must be in range \[0, 1\], got -0.1"),
        (lambda: OracleTopPMaskerConfig(float("nan")), r"top_p must be in range \[0, 1\], got nan"),
        (lambda: HashAttentionTopKMaskerConfig(0, 32, 3, 128, "silu"), "heavy_size must be > 0, got 0"),
        (lambda: QuestTopKMaskerConfig(0, 16), "heavy_size must be > 0, got 0"),
        (lambda: QuestTopKMaskerConfig(4, 0), "page_size must be greater than 0"),
        (lambda: QuestTopKMaskerConfig(4, 16, 17), r"label_bits must be in range \(0, 16\], got 17"),
        (lambda: SocketMaskerConfig(4, K=0), "K must be positive"),
        (lambda: SocketMaskerConfig(4, L=0), "L must be positive"),
        (lambda: SocketMaskerConfig(4, tau=0.0), "tau must be positive, got 0"),
        (lambda: SocketMaskerConfig(4, tau="warm"), "tau must be positive, got"),
        (lambda: PQCacheConfig(4, 0, 6, 10, 0, "ip"), "pq_group_factor must be > 0, got 0"),
        (lambda: PQCacheConfig(4, 2, 0, 10, 0, "ip"), "pq_bits must be > 0, got 0"),
        (lambda: PQCacheConfig(4, 2, 6, 0, 0, "ip"), "kmeans_iter must be > 0, got 0"),
        (lambda: PQCacheConfig(4, 2, 6, 10, -1, "ip"), "init_offset must be >= 0, got -1"),
        (lambda: PQCacheConfig(4, 2, 6, 10, 0, "cosine"), "metric must be 'euclidean' or 'ip', got"),
        (lambda: DoubleSparsityTopKMaskerConfig(4, "no/such/file"), "sorted_channel_file does not exist: no/such/file"),
        (lambda: DoubleSparsityTopKMaskerConfig(4, "x", group_factor=0), "group_factor must be > 0, got 0"),
        (lambda: DoubleSparsityTopKMaskerConfig(4, "x", label_bits=0), r"label_bits must be in range \(0, 16\], got 0"),
        (lambda: RandomSamplingMaskerConfig(0.0), r"sampling_rate must be in range \(0, 1\], got 0"),
        (lambda: RandomSamplingMaskerConfig(1.1), r"sampling_rate must be in range \(0, 1\], got 1.1"),
        (lambda: AdaptiveSamplingMaskerConfig(1.0, 0.1, 0.1, 0, 0), r"base_rate_sampling must be in \[0, 1\)"),
        (lambda: AdaptiveSamplingMaskerConfig(-1, 0.1, 0.1, 0, 0), "base_rate_sampling must be non-negative"),
        (lambda: AdaptiveSamplingMaskerConfig("1", 0.1, 0.1, 0, 0), "base_rate_sampling must be int or float"),
        (lambda: AdaptiveSamplingMaskerConfig(0.1, 0.0, 0.1, 0, 0), r"epsilon must be in \(0, 1\)"),
        (lambda: AdaptiveSamplingMaskerConfig(0.1, 0.1, 1.0, 0, 0), r"delta must be in \(0, 1\)"),
        (lambda: AdaptiveSamplingMaskerConfig(0.1, 0.1, 0.1, 1.5, 0), r"init_offset must be in \[0, 1\]"),
        (lambda: AdaptiveSamplingMaskerConfig(0.1, 0.1, 0.1, 0, -1), "local_offset must be non-negative"),
        (lambda: AdaptiveSamplingMaskerConfig(0.1, 0.1, 0.1, 0, None), "local_offset must be int or float"),
        (lambda: MagicPigConfig(0, 4), "lsh_l must be positive, got 0"),
        (lambda: MagicPigConfig(4, 0), "lsh_k must be positive, got 0"),
        (lambda: MagicPigConfig(4, 65), "For 'int64' packing, lsh_k must be <= 64, but got 65"),
        (lambda: MagicPigConfig(4, 4, packing="int8"), "packing must be 'int64' or 'float32', got int8"),
        (lambda: MagicPigConfig(4, 4, seed=None), "seed cannot be None"),
        (lambda: RandomSamplingMaskerConfig(0.1, estimator="best"), "estimator must be"),
    ],
)
def test_bad_values_are_refused_with_the_hubs_words(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_new_fields_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        RandomSamplingMaskerConfig(0.1, {}, "hub")  # type: ignore[misc]
    assert RandomSamplingMaskerConfig(0.1, estimator="hub").estimator == "hub"
    with pytest.raises(TypeError):
        ResearchAttentionConfig([], 7)  # type: ignore[misc]


def test_counts_and_fractions_stay_apart() -> None:
    assert OracleTopKConfig(1).to_entry() == {"type": "oracle_top_k", "heavy_size": 1}
    assert '"heavy_size": 1.0' in json.dumps(OracleTopKConfig(1.0).to_entry())
    entry = OracleTopKConfig(torch.tensor(3)).to_entry()
    assert entry["heavy_size"] == 3 and isinstance(entry["heavy_size"], int)


def test_a_pipeline_of_configs_is_the_librarys() -> None:
    config = ResearchAttentionConfig(
        [SinkMaskerConfig(4), FixedMaskerConfig(), RandomSamplingMaskerConfig(0.5)], seed=7, selection="kv_group"
    )
    written = json.loads(_core.read_pipeline(json.dumps(pipeline_of_config(config))))
    assert written["seed"] == 7
    assert written["selection"] == "kv_group"
    assert [entry["type"] for entry in written["maskers"]] == ["sink", "random_sampling"]


def test_weights_in_memory_have_no_json() -> None:
    config = HashAttentionTopKMaskerConfig(4, 5, 2, 6, "silu", hat_weights={})
    with pytest.raises(TypeError, match="hat_weight_file"):
        pipeline_of_config(ResearchAttentionConfig([config]))
