"""What maskers show in the caller's dictionary after add_mask, in the hub's form, and what that costs."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch

from sparse_attention_hub.sparse_attention import (
    HashAttentionTopKMasker,
    HashAttentionTopKMaskerConfig,
    MagicPig,
    MagicPigConfig,
    PQCache,
    PQCacheConfig,
    ResearchAttention,
    ResearchAttentionConfig,
    ResearchMasker,
)

HEADS, KV_HEADS, QUERIES, KEYS, DIM, BITS = 4, 2, 1, 60, 8, 40


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hash_config() -> HashAttentionTopKMaskerConfig:
    entry = {
        f"{side}_{kind}": [normal(*shape, seed=seed + len(shape))]
        for seed, side in ((0, "query"), (10, "key"))
        for kind, shape in (("matrix", (HEADS, DIM, BITS)), ("bias", (HEADS, BITS)))
    }
    return HashAttentionTopKMaskerConfig(5, BITS, 1, 0, "silu", hat_weights={0: entry, 1: entry})


CONFIGS: dict[str, Any] = {
    "hash_attention": hash_config,
    "pq_cache": lambda: PQCacheConfig(5, 2, 3, 5, 4, "euclidean"),
    "pq_cache_ip": lambda: PQCacheConfig(5, 2, 3, 5, 4, "ip"),
    "magic_pig": lambda: MagicPigConfig(6, 3),
    "magic_pig_float32": lambda: MagicPigConfig(6, 3, packing="float32"),
}
PQ = ("pq_centroids", "pq_codebook", "pq_ip2l2_phi")
PIG = ("key_mean", "projections", "key_signature")
ENTRIES = {"hash_attention": ("key",), "pq_cache": PQ, "pq_cache_ip": PQ, "magic_pig": PIG, "magic_pig_float32": PIG}


def shapes(name: str, keys: int) -> dict[str, tuple[int, ...] | None]:
    if name == "hash_attention":
        return {"key": (1, HEADS, keys, BITS)}
    if name.startswith("pq_cache"):
        ip = name.endswith("ip")
        return {
            "pq_centroids": (1, KV_HEADS, 2, 8, 5 if ip else 4),
            "pq_codebook": (1, keys - 4, KV_HEADS, 2),
            "pq_ip2l2_phi": (KV_HEADS * 2, 1, 1) if ip else None,
        }
    return {
        "key_mean": (1, HEADS, 1, DIM),
        "projections": (DIM + 1, 18),
        "key_signature": (1, HEADS, keys, 18 if name.endswith("float32") else 6),
    }


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(masker: ResearchMasker, meta: dict[str, Any], keys: int = KEYS, layer: int = 0) -> torch.Tensor:
    k = normal(1, KV_HEADS, keys, DIM)
    q = normal(1, HEADS, QUERIES, DIM, seed=1)
    return masker.add_mask(k, q, k, None, 1.0, 0.0, meta, None, layer_idx=layer).get_dense_mask()


def masker_of(name: str) -> ResearchMasker:
    return ResearchMasker.create_masker_from_config(CONFIGS[name]())


def shown(meta: dict[str, Any], name: str, layer: int = 0) -> dict[str, Any]:
    return {entry: meta[entry][layer] for entry in ENTRIES[name]}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    assert a.keys() == b.keys()
    return all(x is None and y is None or torch.equal(x, y) for x, y in zip(a.values(), b.values()))


def test_entries_have_the_hubs_shapes_and_grow(name: str) -> None:
    masker = masker_of(name)
    meta: dict[str, Any] = {}
    for keys in (KEYS, KEYS + 1, KEYS + 7):
        run(masker, meta, keys)
        for entry, shape in shapes(name, keys).items():
            value = meta[entry][0]
            assert (None if value is None else tuple(value.shape)) == shape, entry
            integers = entry == "pq_codebook" or (entry == "key_signature" and name == "magic_pig")
            assert value is None or value.dtype == (torch.int64 if integers else torch.float32), entry


def test_layers_are_apart(name: str) -> None:
    masker = masker_of(name)
    meta: dict[str, Any] = {}
    run(masker, meta, layer=0)
    for entry in ENTRIES[name]:
        assert 1 not in meta[entry] and meta[entry].get(1) is None
        with pytest.raises(KeyError):
            meta[entry][1]
    before = shown(meta, name)
    run(masker, meta, keys=KEYS + 9, layer=1)
    assert same(shown(meta, name), before)
    assert all(list(meta[entry]) == [0, 1] and len(meta[entry]) == 2 for entry in ENTRIES[name])


def test_nothing_is_shown_where_attention_is_full(name: str) -> None:
    if name.startswith("magic_pig"):
        return  # samples however few keys there are
    meta: dict[str, Any] = {}
    assert bool((run(masker_of(name), meta, keys=5) == 1).all())
    assert not set(ENTRIES[name]) & set(meta)


def test_hash_signatures_are_those_of_the_method() -> None:
    masker = HashAttentionTopKMasker(hash_config())
    meta: dict[str, Any] = {}
    run(masker, meta)
    keys = normal(1, KV_HEADS, KEYS, DIM).repeat_interleave(2, 1)
    assert torch.equal(meta["key"][0], masker._update_key_signatures(keys, {}, 0))
    more = torch.cat([keys, keys[:, :, :3]], 2)
    grown = masker._update_key_signatures(more, meta, 0)  # goes on from what add_mask made
    assert grown.shape[2] == KEYS + 3 and meta["key"][0] is grown
    run(masker, meta, KEYS + 1)
    assert meta["key"][0].shape[2] == KEYS + 1  # and add_mask shows its own state again


def test_half_types_show_half_types() -> None:
    masker = HashAttentionTopKMasker(hash_config())
    meta: dict[str, Any] = {}
    k, q = normal(1, KV_HEADS, KEYS, DIM).bfloat16(), normal(1, HEADS, QUERIES, DIM).bfloat16()
    masker.add_mask(k, q, k, None, 1.0, 0.0, meta, None, layer_idx=0)
    assert meta["key"][0].dtype == torch.bfloat16


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_codes_name_the_nearest_centroids(metric: str) -> None:
    masker = PQCache(PQCacheConfig(5, 2, 3, 5, 4, metric))
    meta: dict[str, Any] = {}
    run(masker, meta)
    keys = normal(1, KV_HEADS, KEYS, DIM)[:, :, 4:]
    codes = masker._quantize_new_keys(keys, meta["pq_centroids"][0], 0, meta)
    assert torch.equal(meta["pq_codebook"][0], codes)


@pytest.mark.parametrize("packing", ["int64", "float32"])
def test_planes_and_mean_give_the_signatures(packing: str) -> None:
    """With the hub's rule, where the index and the methods do the same."""
    masker = MagicPig(MagicPigConfig(6, 3, packing=packing, estimator="hub"))
    meta: dict[str, Any] = {}
    run(masker, meta)
    keys, queries = normal(1, KV_HEADS, KEYS, DIM).repeat_interleave(2, 1), normal(1, HEADS, QUERIES, DIM, seed=1)
    by_methods: dict[str, Any] = {}
    on_sphere = masker._transform_for_mips(*masker._center_KQ(keys, queries, by_methods, 0))
    masker._compute_lsh_matches(*on_sphere, by_methods, 0)
    assert torch.allclose(meta["key_mean"][0], by_methods["key_mean"][0], atol=1e-6)
    assert torch.equal(meta["projections"][0], by_methods["projections"][0])
    assert torch.equal(meta["key_signature"][0], by_methods["key_signature"][0])
    unfitted = MagicPig(MagicPigConfig(6, 3, center=False))
    run(unfitted, meta := {})
    assert meta["key_mean"][0] is None and meta["projections"][0] is not None


def test_copies_are_plain_and_stand_alone(name: str) -> None:
    masker = masker_of(name)
    meta: dict[str, Any] = {}
    run(masker, meta)
    before = shown(meta, name)
    copies = [copy.deepcopy(meta), pickle.loads(pickle.dumps(meta))]
    assert isinstance(meta[ENTRIES[name][0]], dict)
    for entry in ENTRIES[name]:
        view = meta[entry]
        for plain in (view.copy(), copy.copy(view), dict(view), {**view}, dict(view.items())):
            assert type(plain) is dict
            assert same(plain, {0: before[entry]})
    run(masker, meta, KEYS + 3)
    for copied in copies:
        assert all(type(copied[entry]) is dict for entry in ENTRIES[name])
        assert same(shown(copied, name), before)
        run(masker, copied, KEYS + 3)  # an index of its own
        if not name.startswith("pq_cache"):  # whose codebook is learned anew
            assert same(shown(copied, name), shown(meta, name))


def test_a_view_is_a_dictionary(name: str) -> None:
    meta: dict[str, Any] = {}
    run(masker_of(name), meta)
    view = meta[ENTRIES[name][0]]
    assert view.get(0) is not None and view.get(7) is None and view.get(7, 1) == 1
    assert "tensor" in repr(view)
    assert view.setdefault(0, None) is not None
    view[2] = None
    assert view[2] is None and view.pop(2) is None and 2 not in view
    assert [value is None for value in view.values()] == [False]
    del view[0]
    assert len(view) == 0 and not view


def test_a_callers_own_entries_stay() -> None:
    kept = normal(3)
    meta: dict[str, Any] = {"key": {7: kept}, "mine": 1}
    run(HashAttentionTopKMasker(hash_config()), meta)
    assert meta["mine"] == 1 and meta["key"][7] is kept and meta["key"][0] is not None


def test_an_engine_shows_the_same(name: str) -> None:
    engine = ResearchAttention.create_from_config(ResearchAttentionConfig([CONFIGS[name]()]))
    k, q = normal(1, KV_HEADS, KEYS, DIM), normal(1, HEADS, QUERIES, DIM, seed=1)
    meta: dict[str, Any] = {}
    engine.custom_attention(None, q, k, k, None, 1.0, 0.0, sparse_meta_data=meta, layer_idx=0)
    alone: dict[str, Any] = {}
    run(masker_of(name), alone)
    assert same(shown(meta, name), shown(alone, name))


def test_a_dictionary_shows_the_masker_and_the_sequence_of_the_last_step() -> None:
    first, second = HashAttentionTopKMasker(hash_config()), HashAttentionTopKMasker(hash_config())
    meta: dict[str, Any] = {}
    run(first, meta, KEYS)
    run(second, meta, KEYS + 2)
    assert meta["key"][0].shape[2] == KEYS + 2
    run(first, meta, KEYS + 1)
    assert meta["key"][0].shape[2] == KEYS + 1
    del meta["sparse_attention_hub_session"]
    run(first, meta, KEYS + 3)
    assert meta["key"][0].shape[2] == KEYS + 3


def test_a_forgotten_sequence_shows_none(name: str) -> None:
    masker = masker_of(name)
    meta: dict[str, Any] = {}
    run(masker, meta)
    meta["sparse_attention_hub_session"].reset()
    assert all(value is None for value in shown(meta, name).values())


def test_views_keep_no_keys_alive(name: str) -> None:
    masker = masker_of(name)
    meta: dict[str, Any] = {}
    keys = normal(1, KV_HEADS, KEYS, DIM)
    watched = weakref.ref(keys)
    masker.add_mask(keys, normal(1, HEADS, QUERIES, DIM), keys, None, 1.0, 0.0, meta, None, layer_idx=0)
    del keys
    gc.collect()
    assert watched() is None
    assert shown(meta, name)[ENTRIES[name][-1 if not name.startswith("pq") else 0]] is not None


def test_a_step_reads_no_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are made when they are looked at, and not before."""
    masker = masker_of(name)
    asked = []
    original = type(masker).state_entry
    monkeypatch.setattr(
        type(masker), "state_entry", lambda self, *args: asked.append(args[0]) or original(self, *args)
    )
    meta: dict[str, Any] = {}
    for keys in (KEYS, KEYS + 1):
        run(masker, meta, keys)
    assert asked == []
    entry = ENTRIES[name][0]
    assert meta[entry][0] is not None
    assert asked == [entry]
