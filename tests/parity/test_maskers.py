"""Maskers through the hub's calling conventions: call forms, dtypes, shortcuts, errors, registry."""

from __future__ import annotations

import copy
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sparse_attention_hub.sparse_attention import (
    AdaptiveSamplingMasker,
    AdaptiveSamplingMaskerConfig,
    CausalMasker,
    DoubleSparsityTopKMasker,
    DoubleSparsityTopKMaskerConfig,
    FixedMasker,
    FixedMaskerConfig,
    HashAttentionTopKMasker,
    HashAttentionTopKMaskerConfig,
    LightningIndexerMasker,
    LocalMasker,
    LocalMaskerConfig,
    MagicPig,
    MagicPigConfig,
    Mask,
    MaskerRegistry,
    OracleTopK,
    OracleTopKConfig,
    OracleTopPMasker,
    OracleTopPMaskerConfig,
    PQCache,
    PQCacheConfig,
    QuestTopKMasker,
    QuestTopKMaskerConfig,
    RandomSamplingMasker,
    RandomSamplingMaskerConfig,
    ResearchAttention,
    ResearchAttentionConfig,
    ResearchMasker,
    SamplingMasker,
    SinkMasker,
    SinkMaskerConfig,
    SnapKVMasker,
    SnapKVMaskerConfig,
    SocketMasker,
    SocketMaskerConfig,
    TopKMasker,
    TopPMasker,
)
from sparse_attention_hub.sparse_attention.research_attention.maskers.base import (
    AttentionTensorDimensions,
    MaskerConfig,
)

HEADS, KV_HEADS, QUERIES, KEYS, DIM = 4, 2, 2, 48, 8
SHAPE = (1, HEADS, QUERIES, KEYS)


def step(dtype: torch.dtype = torch.float32, seed: int = 0, keys: int = KEYS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "keys": torch.randn(1, KV_HEADS, keys, DIM, generator=generator).to(dtype),
        "queries": torch.randn(1, HEADS, QUERIES, DIM, generator=generator).to(dtype),
        "values": torch.randn(1, KV_HEADS, keys, DIM, generator=generator).to(dtype),
        "attention_mask": None,
        "scaling": DIM**-0.5,
        "dropout": 0.0,
    }


def hash_weights() -> dict[int, dict[str, list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    return {
        0: {
            f"{side}_{kind}": [torch.randn(shape, generator=generator)]
            for side in ("query", "key")
            for kind, shape in (("matrix", (HEADS, DIM, 16)), ("bias", (HEADS, 16)))
        }
    }


def channel_file(folder: pathlib.Path) -> str:
    path = folder / "channels.json"
    lists = [list(range(DIM)) for _ in range(HEADS)]
    path.write_text(json.dumps({"model.layers.0.self_attn.qk_proj": lists}))
    return str(path)


MAKERS: dict[str, Any] = {
    "sink": lambda folder: SinkMaskerConfig(3),
    "local": lambda folder: LocalMaskerConfig(3),
    "causal": lambda folder: FixedMaskerConfig(),
    "oracle_top_k": lambda folder: OracleTopKConfig(5),
    "oracle_top_p": lambda folder: OracleTopPMaskerConfig(0.5),
    "hash_attention": lambda folder: HashAttentionTopKMaskerConfig(5, 16, 1, 0, "silu", hat_weights=hash_weights()),
    "double_sparsity": lambda folder: DoubleSparsityTopKMaskerConfig(5, channel_file(folder), group_factor=2),
    "pq_cache": lambda folder: PQCacheConfig(5, 2, 3, 5, 0, "euclidean"),
    "quest": lambda folder: QuestTopKMaskerConfig(8, 4),
    "socket": lambda folder: SocketMaskerConfig(5, 3, 6),
    "snap_kv": lambda folder: SnapKVMaskerConfig(5, 2),
    "random": lambda folder: RandomSamplingMaskerConfig(0.25),
    "adaptive": lambda folder: AdaptiveSamplingMaskerConfig(0.2, 0.3, 0.3, 2, 2),
    "magic_pig": lambda folder: MagicPigConfig(8, 3),
}
CLASSES = {
    "sink": (SinkMasker, FixedMasker),
    "local": (LocalMasker, FixedMasker),
    "causal": (CausalMasker, FixedMasker),
    "oracle_top_k": (OracleTopK, TopKMasker),
    "oracle_top_p": (OracleTopPMasker, TopPMasker),
    "hash_attention": (HashAttentionTopKMasker, TopKMasker),
    "double_sparsity": (DoubleSparsityTopKMasker, TopKMasker),
    "pq_cache": (PQCache, TopKMasker),
    "quest": (QuestTopKMasker, TopKMasker),
    "socket": (SocketMasker, TopKMasker),
    "snap_kv": (SnapKVMasker, TopKMasker),
    "random": (RandomSamplingMasker, SamplingMasker),
    "adaptive": (AdaptiveSamplingMasker, SamplingMasker),
    "magic_pig": (MagicPig, SamplingMasker),
}
NEED_META_DATA = {"hash_attention", "pq_cache", "magic_pig"}


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def masker(name: str, tmp_path: pathlib.Path) -> ResearchMasker:
    return ResearchMasker.create_masker_from_config(MAKERS[name](tmp_path))


def empty(dtype: torch.dtype = torch.float32) -> Mask:
    return Mask.create_empty_mask(SHAPE, dtype, torch.device("cpu"))


def test_classes_and_bases(name: str, masker: ResearchMasker) -> None:
    exact, base = CLASSES[name]
    assert type(masker) is exact
    assert isinstance(masker, base)
    assert type(MaskerRegistry.create_masker(masker.config)) is exact
    assert type(exact.create_from_config(masker.config)) is exact


def test_another_config_is_refused(name: str, masker: ResearchMasker) -> None:
    with pytest.raises(ValueError, match="Invalid config type"):
        type(masker).create_from_config(MaskerConfig())


def test_a_full_mask_comes_back_as_the_same_object(masker: ResearchMasker) -> None:
    full = Mask.create_full_mask(SHAPE, torch.float32, torch.device("cpu"))
    assert masker.add_mask(**step(), sparse_meta_data={}, previous_mask=full, layer_idx=0) is full


def test_by_position_by_keyword_and_in_the_older_form(name: str, masker: ResearchMasker) -> None:
    arguments = step()
    by_keyword = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    by_position = masker.add_mask(*arguments.values(), {}, empty(), layer_idx=0)
    assert torch.equal(by_keyword.get_dense_mask(), by_position.get_dense_mask())
    assert by_keyword.shape == SHAPE
    older = {key: arguments[key] for key in ("keys", "queries", "values", "attention_mask")}
    unscaled = masker.add_mask(**older, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    scaled = masker.add_mask(**(arguments | {"scaling": 1.0}), sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    assert torch.equal(unscaled.get_dense_mask(), scaled.get_dense_mask())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_type_of_the_previous_mask(
    name: str, masker: ResearchMasker, dtype: torch.dtype
) -> None:
    mask = masker.add_mask(**step(dtype), sparse_meta_data={}, previous_mask=empty(dtype), layer_idx=0)
    assert mask.dtype == dtype
    dense = mask.get_dense_mask()
    assert dense.dtype == dtype
    if name != "causal":
        assert 0 < int((dense > 0).sum()) < dense.numel()
        assert dense.min() >= 0 and dense.max() <= 1


def test_the_previous_mask_keeps_its_tensor(name: str, masker: ResearchMasker) -> None:
    weights = torch.zeros(SHAPE)
    weights[..., 7] = 1
    previous = Mask.create_mask_from_dense_mask(SHAPE, weights, torch.float32)
    before = weights.clone()
    mask = masker.add_mask(**step(), sparse_meta_data={}, previous_mask=previous, layer_idx=0)
    assert torch.equal(weights, before)
    assert bool((mask.get_dense_mask()[..., 7] == 1).all())


def test_bool_masks_are_refused_where_their_meaning_is_not_fixed(name: str, masker: ResearchMasker) -> None:
    arguments = step()
    arguments["attention_mask"] = torch.zeros(1, 1, QUERIES, KEYS, dtype=torch.bool)
    arguments["attention_mask"][..., -8:] = True
    if name == "causal":
        return
    if name in ("quest", "socket"):  # True = forbidden
        mask = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
        assert not mask.get_dense_mask()[..., -8:].any()
        assert mask.get_dense_mask()[..., :-8].any()
    else:
        with pytest.raises(ValueError, match="True"):
            masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)


@pytest.mark.parametrize("value", [True, False])
def test_bool_masks_of_one_value_hide_nothing(name: str, masker: ResearchMasker, value: bool) -> None:
    if name in ("quest", "socket"):  # True = forbidden
        return
    arguments = step()
    without = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    for shape in [(1, KEYS), (1, 1, QUERIES, KEYS), SHAPE]:
        arguments["attention_mask"] = torch.full(shape, value)
        mask = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
        assert torch.equal(mask.get_dense_mask(), without.get_dense_mask())


def test_bool_masks_of_one_value_in_steps() -> None:
    """The same where `add_mask` goes through methods that somebody replaced."""

    class Scores(AdaptiveSamplingMasker):
        seen: Any = "nothing yet"

        def _compute_exp_attention_scores(self, queries: Any, keys: Any, scaling: float, attention_mask: Any) -> Any:
            self.seen = attention_mask
            return super()._compute_exp_attention_scores(queries, keys, scaling, attention_mask)

    masker = Scores(AdaptiveSamplingMaskerConfig(0.2, 0.3, 0.3, 2, 2))
    arguments = step() | {"attention_mask": torch.ones(1, KEYS, dtype=torch.bool)}
    masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    assert masker.seen is None


@pytest.mark.parametrize("name", sorted(NEED_META_DATA | {"double_sparsity"}))
def test_validated_inputs_are_the_layer(name: str, masker: Any) -> None:
    assert masker._validate_inputs({}, {"layer_idx": 3}) == 3
    assert masker._validate_inputs({"anything": 1}, {"layer_idx": 0, "other": 2}) == 0


def test_a_channel_file_is_read_at_the_first_step(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "channels.json"
    path.write_text('{"note": 4}')
    config = DoubleSparsityTopKMaskerConfig(5, str(path), group_factor=2)
    masker = ResearchMasker.create_masker_from_config(config)
    pipeline = ResearchAttention.create_from_config(ResearchAttentionConfig([config], seed=7))
    assert masker.config is config and pipeline.maskers[0].config is config
    full = Mask.create_full_mask(SHAPE, torch.float32, torch.device("cpu"))
    assert masker.add_mask(**step(), sparse_meta_data={}, previous_mask=full, layer_idx=0) is full
    with pytest.raises(ValueError, match="Channel data for note must be a list"):
        masker.add_mask(**step(), sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    with pytest.raises(ValueError, match="Channel data for note must be a list"):
        pipeline.custom_attention(None, **step(), sparse_meta_data={}, layer_idx=0)
    channel_file(tmp_path)  # now a good one
    mask = masker.add_mask(**step(), sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    assert bool((mask.get_dense_mask().sum(-1) == 5).all())
    fresh = ResearchMasker.create_masker_from_config(config)
    expected = fresh.add_mask(**step(), sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    assert torch.equal(mask.get_dense_mask(), expected.get_dense_mask())


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -1e9, -0.5])
@pytest.mark.parametrize("name", ["quest", "socket"])
def test_numbers_below_0_forbid_where_a_mask_is_not_added(name: str, tmp_path: pathlib.Path, low: float) -> None:
    masker = ResearchMasker.create_masker_from_config(MAKERS[name](tmp_path))
    arguments = step()
    masks = []
    for forbidden in (low, -torch.inf):
        additive = torch.zeros(1, 1, QUERIES, KEYS)
        additive[..., 8:40] = forbidden
        additive[..., 40:] = 0.5
        given = additive.clone()
        arguments["attention_mask"] = additive
        mask = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0).get_dense_mask()
        assert not mask[..., 8:40].any()
        assert bool((mask.sum(-1) > 0).all())
        assert torch.equal(additive, given)
        masks.append(mask)
    assert torch.equal(*masks)


@pytest.mark.parametrize("rows", [(1, 1, 1), (1, 1), (1,), (1, HEADS, 1)], ids=str)
def test_one_row_of_an_attention_mask_counts_for_every_query(
    name: str, masker: ResearchMasker, rows: tuple[int, ...]
) -> None:
    arguments = step()
    one = torch.zeros(*rows, KEYS + 3)
    one[..., 4:20] = -torch.inf
    masks = []
    for attention_mask in (one, one.expand(*rows[:-1], QUERIES, KEYS + 3).contiguous()):
        arguments["attention_mask"] = attention_mask
        masks.append(masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0))
    assert torch.equal(masks[0].get_dense_mask(), masks[1].get_dense_mask())
    arguments["attention_mask"] = None
    free = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=empty(), layer_idx=0)
    if name in ("oracle_top_k", "oracle_top_p", "hash_attention", "double_sparsity", "pq_cache", "socket"):
        assert not masks[0].get_dense_mask()[..., 4:20].any()
        assert free.get_dense_mask()[..., 4:20].any()


def test_meta_data_and_layer_where_they_are_needed(name: str, masker: ResearchMasker) -> None:
    full = Mask.create_full_mask(SHAPE, torch.float32, torch.device("cpu"))
    if name in NEED_META_DATA:
        with pytest.raises(ValueError, match="sparse_meta_data cannot be None"):
            masker.add_mask(**step(), sparse_meta_data=None, previous_mask=full, layer_idx=0)
    if name in NEED_META_DATA | {"double_sparsity"}:
        with pytest.raises(ValueError, match="layer_idx must be provided in kwargs"):
            masker.add_mask(**step(), sparse_meta_data={}, previous_mask=full)
    else:
        assert masker.add_mask(**step(), sparse_meta_data=None, previous_mask=empty()).shape == SHAPE


def test_shapes_that_do_not_fit_are_refused(name: str, masker: ResearchMasker) -> None:
    if name == "causal":
        return
    previous = Mask.create_empty_mask((1, HEADS, QUERIES, KEYS + 1), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="shape"):
        masker.add_mask(**step(), sparse_meta_data={}, previous_mask=previous, layer_idx=0)


def test_an_index_grows_with_its_sequence(name: str, masker: ResearchMasker) -> None:
    """One dictionary for a sequence gives what a fresh one gives, but where a codebook is kept."""
    if name == "causal":
        return
    longer = step(keys=KEYS + 16)
    meta: dict[str, Any] = {}
    for keys in (KEYS, KEYS + 1, KEYS + 16):
        arguments = longer | {"keys": longer["keys"][:, :, :keys], "values": longer["values"][:, :, :keys]}
        previous = Mask.create_empty_mask((1, HEADS, QUERIES, keys), torch.float32, torch.device("cpu"))
        grown = masker.add_mask(**arguments, sparse_meta_data=meta, previous_mask=previous, layer_idx=0)
        fresh = masker.add_mask(**arguments, sparse_meta_data={}, previous_mask=previous, layer_idx=0)
        if name == "snap_kv" and keys > KEYS:  # chooses by the queries of the prompt alone
            assert torch.equal(grown.get_dense_mask().sum(-1), fresh.get_dense_mask().sum(-1))
        elif name not in ("pq_cache", "magic_pig") or keys == KEYS:
            assert torch.equal(grown.get_dense_mask(), fresh.get_dense_mask())
        else:
            assert grown.get_dense_mask().any()


def test_meta_data_can_be_copied(name: str, masker: ResearchMasker) -> None:
    meta: dict[str, Any] = {}
    first = masker.add_mask(**step(), sparse_meta_data=meta, previous_mask=empty(), layer_idx=0)
    again = masker.add_mask(**step(), sparse_meta_data=copy.deepcopy(meta), previous_mask=empty(), layer_idx=0)
    assert torch.equal(first.get_dense_mask(), again.get_dense_mask())


def test_sampling_draws_by_seed_layer_and_position_alone() -> None:
    masker = RandomSamplingMasker(RandomSamplingMaskerConfig(0.25))
    draw = lambda layer: masker.add_mask(  # noqa: E731
        **step(), sparse_meta_data={}, previous_mask=empty(), layer_idx=layer
    ).get_dense_mask()
    torch.manual_seed(1)
    first = draw(0)
    torch.manual_seed(2)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))
    like_hub = RandomSamplingMasker(RandomSamplingMaskerConfig(0.25, estimator="hub"))
    torch.manual_seed(1)
    one = like_hub.add_mask(**step(), sparse_meta_data={}, previous_mask=empty()).get_dense_mask()
    two = like_hub.add_mask(**step(), sparse_meta_data={}, previous_mask=empty()).get_dense_mask()
    assert not torch.equal(one, two)


def test_weights_given_twice_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="Only one of hat_weights or hat_weight_file should be provided"):
        HashAttentionTopKMasker(
            HashAttentionTopKMaskerConfig(5, 16, 1, 0, "silu", hat_weights=hash_weights(), hat_weight_file="x")
        )
    with pytest.raises(ValueError, match="Either hat_weights or hat_weight_file must be provided"):
        HashAttentionTopKMasker(HashAttentionTopKMaskerConfig(5, 16, 1, 0, "silu"))
    with pytest.raises(ValueError, match="Unsupported activation function: swish"):
        HashAttentionTopKMasker(HashAttentionTopKMaskerConfig(5, 16, 1, 0, "swish", hat_weights=hash_weights()))


def test_an_integer_top_p_is_the_maskers_to_refuse() -> None:
    config = OracleTopPMaskerConfig(1)
    with pytest.raises(AssertionError, match="top_p must be set as a float in config"):
        OracleTopPMasker(config)


def test_the_indexer_asks_for_its_weights() -> None:
    assert LightningIndexerMasker.config_class.masker_type == "lightning_indexer"
    with pytest.raises(KeyError, match="no/such/file"):
        LightningIndexerMasker(LightningIndexerMasker.config_class(5, weight_file="no/such/file"))


@dataclass
class EveryOtherConfig(MaskerConfig):
    offset: int = 0


def test_the_registry() -> None:
    with pytest.raises(ValueError, match="No masker class registered for config type"):
        MaskerRegistry.create_masker(EveryOtherConfig())

    @MaskerRegistry.register(EveryOtherConfig)
    class EveryOther(ResearchMasker):
        def add_mask(self, *args: Any, **kwargs: Any) -> Mask:
            return kwargs["previous_mask"]

        @classmethod
        def create_from_config(cls, config: MaskerConfig) -> EveryOther:
            return cls(config)

    try:
        assert type(ResearchMasker.create_masker_from_config(EveryOtherConfig())) is EveryOther
        assert MaskerRegistry.get_masker_class(EveryOtherConfig) is EveryOther
        registered = MaskerRegistry.get_all_registered_types()
        registered.clear()  # a copy
        assert len(MaskerRegistry.get_all_registered_types()) == len(CLASSES) + 2  # the indexer, and EveryOther
    finally:
        MaskerRegistry._registry.pop(EveryOtherConfig)


def test_helpers_of_the_base() -> None:
    masker = SinkMasker(SinkMaskerConfig(3))
    arguments = step()
    dims = masker._extract_tensor_dimensions(arguments["keys"], arguments["queries"])
    assert dims == AttentionTensorDimensions(1, HEADS, QUERIES, KEYS)
    assert masker._calculate_effective_size(0.29, 100) == 28  # the double product, truncated
    assert masker._calculate_effective_size(7, 100) == 7
    assert masker._create_full_mask(dims).is_full_mask()
    indices = torch.zeros(1, HEADS, QUERIES, 2, dtype=torch.long)
    indices[..., 1] = 5
    rows = masker._create_mask_from_rowise_indices(dims, indices, torch.device("cpu"), torch.float32)
    assert rows.get_dense_mask().sum() == HEADS * QUERIES * 2
    assert bool((rows.get_dense_mask()[..., [0, 5]] == 1).all())


def test_top_k_outside_the_previous_mask_takes_the_lowest_index_among_equals() -> None:
    masker = OracleTopK(OracleTopKConfig(3))
    held = torch.zeros(SHAPE)
    held[..., 0] = 1
    previous = Mask.create_mask_from_dense_mask(SHAPE, held, torch.float32)
    top = masker._get_topk_indices_from_inactive_positions(torch.ones(SHAPE), previous, 3)
    assert torch.equal(top, torch.tensor([1, 2, 3]).expand(1, HEADS, QUERIES, 3))


def test_modes_give_one_result() -> None:
    arguments = step()
    dims = AttentionTensorDimensions(1, HEADS, QUERIES, KEYS)
    local, sink = LocalMasker(LocalMaskerConfig(4)), SinkMasker(SinkMaskerConfig(4))
    for mode in ("dense1", "dense2", "sparse"):
        mask = local.get_updated_mask(dims, 4, arguments["keys"], empty(), mode)
        expected = torch.zeros(QUERIES, KEYS)
        for query in range(QUERIES):
            last = KEYS - QUERIES + query
            expected[query, last - 3 : last + 1] = 1
        assert torch.equal(mask.get_dense_mask(), expected.expand(SHAPE))
    for mode in ("dense", "sparse"):
        mask = sink.get_updated_mask(dims, 4, arguments["keys"], empty(), mode)
        assert bool((mask.get_dense_mask().sum(-1) == 4).all())
        assert bool((mask.get_dense_mask()[..., :4] == 1).all())
    for call in (lambda: local.get_updated_mask(dims, 4, arguments["keys"], empty(), "x"),
                 lambda: sink.get_updated_mask(dims, 4, arguments["keys"], empty(), "x")):
        with pytest.raises(ValueError, match="Invalid mode: x"):
            call()


def test_thresholds_of_the_seed() -> None:
    masker = OracleTopPMasker(OracleTopPMaskerConfig(0.5))
    for scores, top_p, expected in (
        ([0.1, 0.3, 0.2, 0.4, 0.1], 0.8, 0.2),
        ([0.2, 0.1, 0.5, 0.1, 0.1], 0.8, 0.1),
        ([0.1, 0.3, 0.2], 0.6, 0.2),
        ([1.0, 1.0, 1.0], 0.5, 1.0),
        ([0.1, 0.3, 0.2], 1.0, 0.1),
        ([0.1, 0.3, 0.2], 0.0, 0.3),
    ):
        for shape in ((-1,), (1, -1), (1, 1, 1, -1)):
            threshold = masker._compute_top_p_thresholds(torch.tensor(scores).view(shape), top_p)
            assert threshold.shape == (*torch.tensor(scores).view(shape).shape[:-1], 1)
            assert threshold.item() == pytest.approx(expected)
