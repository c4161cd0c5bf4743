"""MagicPIG step by step: centring, transform, hashes, matches, probabilities, and add_mask through replaced steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import golden
from sparse_attention_hub.sparse_attention import MagicPig, MagicPigConfig, Mask

HEADS, QUERIES, KEYS, DIM = 4, 3, 30, 8
GOLDEN = golden.load("key_index")["magicpig"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masker_of(tables: int = 6, bits: int = 3, **fields: Any) -> MagicPig:
    return MagicPig(MagicPigConfig(tables, bits, **fields))


def step(masker: MagicPig, meta: dict[str, Any], keys: int = KEYS) -> tuple[torch.Tensor, torch.Tensor]:
    """Transformed keys and queries."""
    centred = masker._center_KQ(normal(2, HEADS, keys, DIM), normal(2, HEADS, QUERIES, DIM, seed=1), meta, 0)
    return masker._transform_for_mips(*centred)


# Against the hub's own numbers.


def golden_step() -> tuple[MagicPig, dict[str, Any], torch.Tensor, torch.Tensor]:
    queries, keys, _ = golden.inputs()
    masker, meta = masker_of(), {}
    centred = masker._center_KQ(keys.repeat_interleave(2, 1), queries, meta, 0)
    return masker, meta, *masker._transform_for_mips(*centred)


def test_like_the_hub_mean_planes_and_signatures() -> None:
    masker, meta, keys, _ = golden_step()
    signatures = masker._update_key_signatures(keys, meta, 0)
    assert meta["key_mean"][0].shape == (1, 4, 1, 8)
    assert meta["key_mean"][0][0, 0, 0].tolist() == pytest.approx(GOLDEN["key_mean_h0"], abs=1e-6)
    assert meta["projections"][0].shape == (9, 18)
    assert meta["projections"][0].flatten()[:12].tolist() == pytest.approx(GOLDEN["projections_first12"], abs=1e-6)
    assert signatures.shape == (1, 4, 24, 6) and signatures.dtype == torch.int64
    assert signatures.flatten().tolist() == GOLDEN["key_signatures"]


def test_like_the_hub_probabilities() -> None:
    masker, _, keys, queries = golden_step()
    probabilities = masker._compute_probabilities(keys, queries)
    assert probabilities.shape == (1, 4, 2, 24)
    assert probabilities[0, 0, 0].tolist() == pytest.approx(GOLDEN["collision_prob_h0q0"], abs=1e-5)
    assert probabilities[0, 3, 1].tolist() == pytest.approx(GOLDEN["collision_prob_h3q1"], abs=1e-5)


# Step by step.


def test_the_mean_of_the_first_keys_is_kept() -> None:
    masker, meta = masker_of(), {}
    keys, queries = normal(2, HEADS, KEYS, DIM), normal(2, HEADS, QUERIES, DIM, seed=1)
    centred, of_queries = masker._center_KQ(keys, queries, meta, 0)
    mean = keys.double().mean(2, keepdim=True)
    assert torch.allclose(meta["key_mean"][0].double(), mean, atol=1e-6)
    assert torch.allclose(centred.double(), keys.double() - mean, atol=1e-6)
    assert torch.allclose(of_queries.double(), queries.double() - mean, atol=1e-6)
    kept = meta["key_mean"][0]
    longer, _ = masker._center_KQ(torch.cat([keys, 9 + keys], 2), queries, meta, 0)
    assert meta["key_mean"][0] is kept
    assert torch.equal(longer[:, :, :KEYS], centred)
    masker._center_KQ(9 + keys, queries, meta, 1)
    assert not torch.equal(meta["key_mean"][1], kept)


def test_without_centring() -> None:
    meta: dict[str, Any] = {}
    keys, queries = normal(1, HEADS, KEYS, DIM), normal(1, HEADS, QUERIES, DIM)
    same = masker_of(center=False)._center_KQ(keys, queries, meta, 0)
    assert same[0] is keys and same[1] is queries
    assert meta == {"key_mean": {0: None}}


def test_the_transform_makes_unit_vectors_whose_angles_order_products() -> None:
    keys, queries = 3 * normal(2, HEADS, KEYS, DIM), normal(2, HEADS, QUERIES, DIM, seed=1)
    of_keys, of_queries = masker_of()._transform_for_mips(keys, queries)
    assert of_keys.shape == (2, HEADS, KEYS, DIM + 1) and of_queries.shape == (2, HEADS, QUERIES, DIM + 1)
    assert torch.allclose(of_keys.norm(dim=-1), torch.ones(2, HEADS, KEYS), atol=1e-6)
    assert torch.allclose(of_queries.norm(dim=-1), torch.ones(2, HEADS, QUERIES), atol=1e-6)
    radius = keys.double().norm(dim=-1).max()  # of the whole tensor
    assert torch.allclose(of_keys[..., :DIM].double(), keys.double() / radius, atol=1e-6)
    assert not of_queries[..., DIM].any()
    cosines = of_queries.double() @ of_keys.double().transpose(2, 3)
    products = queries.double() @ keys.double().transpose(2, 3)
    assert torch.equal(cosines.argsort(-1), products.argsort(-1))
    half = masker_of()._transform_for_mips(keys.half(), queries.half())
    assert half[0].dtype == half[1].dtype == torch.float16
    zero = masker_of()._transform_for_mips(0 * keys, 0 * queries)
    assert bool(zero[0].isfinite().all()) and bool(zero[1].isfinite().all())


@pytest.mark.parametrize(("tables", "bits"), [(1, 1), (6, 3), (16, 8)])
def test_probabilities(tables: int, bits: int) -> None:
    masker = masker_of(tables, bits)
    x = torch.eye(DIM)[None, None]
    own = masker._compute_probabilities(x, x)
    assert bool((own.diagonal(dim1=2, dim2=3) == 1).all())
    assert torch.allclose(masker._compute_probabilities(x, -x).diagonal(dim1=2, dim2=3), torch.zeros(DIM), atol=1e-6)
    right_angle = 1 - (1 - 0.5**bits) ** tables
    assert torch.allclose(own[0, 0, 0, 1:], torch.full((DIM - 1,), right_angle), atol=1e-6)
    keys, queries = step(masker, {})
    cosines = torch.nn.functional.normalize(queries.double(), dim=-1) @ torch.nn.functional.normalize(
        keys.double(), dim=-1
    ).transpose(2, 3)
    same_side = 1 - cosines.clamp(-1, 1).acos() / math.pi
    expected = 1 - (1 - same_side**bits) ** tables
    got = masker._compute_probabilities(keys, queries)
    assert got.dtype == keys.dtype
    assert torch.allclose(got.double(), expected, atol=1e-5)


def test_bits_are_packed_lowest_first() -> None:
    masker = masker_of(2, 3)
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, 0.0]])
    assert masker._pack_bits(signs).tolist() == [[0b101, 0b010]]
    wide = masker_of(1, 64)
    assert wide._pack_bits(torch.ones(2, 64)).tolist() == [[-1], [-1]]
    assert wide._pack_bits(-torch.ones(64)).tolist() == [0]
    highest = -torch.ones(64)
    highest[63] = 1
    assert wide._pack_bits(highest).tolist() == [-(2**63)]


def test_signatures_are_sides_of_planes() -> None:
    x = normal(2, HEADS, KEYS, DIM + 1)
    meta: dict[str, Any] = {}
    floats = masker_of(packing="float32")._compute_signatures(x, meta, 0)
    planes = meta["projections"][0]
    assert planes.shape == (DIM + 1, 18)
    assert torch.equal(floats.double(), (x.double() @ planes.double()).sign())
    assert floats.dtype == torch.float32
    words = masker_of()._compute_signatures(x, meta, 0)
    assert meta["projections"][0] is planes
    groups = (floats > 0).unflatten(-1, (6, 3)).long()
    assert torch.equal(words, groups[..., 0] + 2 * groups[..., 1] + 4 * groups[..., 2])


def test_planes_are_drawn_by_seed_and_layer() -> None:
    x = normal(1, 1, 2, DIM + 1)

    def planes(seed: int, layer: int) -> torch.Tensor:
        meta: dict[str, Any] = {}
        masker_of(seed=seed)._compute_signatures(x, meta, layer)
        return meta["projections"][layer]

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert torch.equal(planes(7, 0), planes(7, 0))
    assert torch.equal(planes(7, 1), planes(8, 0))
    assert not torch.equal(planes(7, 0), planes(8, 0))
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="projections must be"):
        masker_of()._compute_signatures(x[..., 1:], {"projections": {0: planes(7, 0)}}, 0)


@pytest.mark.parametrize("packing", ["int64", "float32"])
def test_signatures_of_keys_are_made_once(packing: str) -> None:
    """The hub fails where several keys of several heads are new."""
    masker = masker_of(packing=packing)
    keys = normal(2, HEADS, KEYS, DIM + 1)
    meta: dict[str, Any] = {}
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is None and new is not None and torch.equal(new, keys)
    first = masker._update_key_signatures(keys[:, :, :20], meta, 0)
    assert masker._update_key_signatures(keys[:, :, :20], meta, 0) is first
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is first and new is not None and torch.equal(new, keys[:, :, 20:])
    grown = masker._update_key_signatures(keys, meta, 0)
    assert meta["key_signature"][0] is grown
    assert torch.equal(grown, masker._compute_signatures(keys, meta, 0))
    with pytest.raises(ValueError, match=r"Current number of keys \(19\) is less than cached number of keys \(30\)"):
        masker._update_key_signatures(keys[:, :, :19], meta, 0)


def test_matches() -> None:
    words = masker_of(2, 3)
    keys, queries = torch.tensor([[[[1, 2], [7, 3], [7, 0]]]]), torch.tensor([[[[1, 3], [0, 0]]]])
    got = words._compute_matches_int64(keys, queries)
    assert got.tolist() == [[[[1, 1, 0], [0, 0, 1]]]]
    assert got.dtype == torch.int32
    floats = masker_of(2, 2, packing="float32")
    signs = torch.tensor([[1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [0.0, 1.0, 0.0, 1.0]])[None, None]
    got = floats._compute_matches_float32(signs, signs)
    assert got.tolist() == [[[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]]  # a sign of 0 agrees not even with itself
    assert got.dtype == torch.int32


def test_both_packings_match_the_same_keys() -> None:
    results = []
    for packing in ("int64", "float32"):
        masker, meta = masker_of(packing=packing), {}
        keys, queries = step(masker, meta)
        results.append(masker._compute_lsh_matches(keys, queries, meta, 0))
        assert sorted(meta) == ["key_mean", "key_signature", "projections"]
    assert torch.equal(*results)
    assert results[0].shape == (2, HEADS, QUERIES, KEYS)
    assert 0 < results[0].float().mean() < 1


def test_equal_vectors_match_and_opposite_ones_do_not() -> None:
    x = normal(1, 1, 1, DIM)
    for packing in ("int64", "float32"):
        masker = masker_of(3, 2, packing=packing)
        assert masker._compute_lsh_matches(x, x, {}, 0).item() == 1
        assert masker._compute_lsh_matches(x, -x, {}, 0).item() == 0


class Stepwise(MagicPig):
    def _compute_probabilities(self, *args: Any) -> torch.Tensor:
        return super()._compute_probabilities(*args)


def test_add_mask_by_steps_is_the_hubs_rule() -> None:
    queries, keys, values = golden.inputs()
    config: Any = MagicPigConfig(6, 3, estimator="hub")
    held = torch.zeros(1, 4, 2, 24)
    held[..., 5] = 0.5
    previous = Mask.create_mask_from_dense_mask(tuple(held.shape), held, torch.float32)
    masks = [
        kind(config).add_mask(keys, queries, values, None, golden.SCALING, 0.0, {}, previous, layer_idx=0)
        for kind in (MagicPig, Stepwise)
    ]
    assert torch.allclose(masks[0].get_dense_mask(), masks[1].get_dense_mask(), atol=1e-5)
    masker, meta, of_keys, of_queries = golden_step()
    weights = masker._compute_lsh_matches(of_keys, of_queries, meta, 0) * masker._compute_probabilities(
        of_keys, of_queries
    )
    assert torch.allclose(masks[1].get_dense_mask(), (held + weights).clamp(0, 1), atol=1e-6)
