"""PQCache step by step: codebooks, codes of later keys, scores, the mask, and add_mask through replaced steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_attention_hub.sparse_attention import Mask, PQCache, PQCacheConfig
from sparse_attention_hub.sparse_attention.research_attention.maskers.base import AttentionTensorDimensions
from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils.pq_utils import (
    compute_reconstruction_errors,
)

BATCH, HEADS, KV_HEADS, DIM = 2, 4, 2, 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masker_of(metric: str = "euclidean", bits: int = 3, offset: int = 0, heavy_size: int = 5) -> PQCache:
    return PQCache(PQCacheConfig(heavy_size, 2, bits, 10, offset, metric))


def trained(masker: PQCache, keys: torch.Tensor, layer: int = 0) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    meta: dict[str, Any] = {}
    torch.manual_seed(0)
    masker._initialize_pq_cache(meta, layer)
    centroids, codes = masker._perform_kmeans_clustering(keys, layer, meta)
    return centroids, codes, meta


def rebuilt(centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Keys [batch, KV heads, n, dim] of codes, one by one."""
    batch, n, kv_heads, parts = codes.shape
    width = DIM // parts
    out = torch.empty(batch, kv_heads, n, DIM)
    for b in range(batch):
        for h in range(kv_heads):
            for j in range(n):
                rows = [centroids[b, h, p, codes[b, j, h, p], :width] for p in range(parts)]
                out[b, h, j] = torch.cat(rows)
    return out


def test_entries_are_none_before_the_first_use() -> None:
    meta: dict[str, Any] = {}
    masker_of()._initialize_pq_cache(meta, 3)
    assert meta == {"pq_centroids": {3: None}, "pq_codebook": {3: None}, "pq_ip2l2_phi": {3: None}}
    meta["pq_codebook"][3] = kept = normal(1)
    masker_of()._initialize_pq_cache(meta, 3)
    masker_of()._initialize_pq_cache(meta, 4)
    assert meta["pq_codebook"] == {3: kept, 4: None}


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
@pytest.mark.parametrize("offset", [0, 4])
def test_a_codebook_of_keys(metric: str, offset: int) -> None:
    keys = normal(BATCH, KV_HEADS, 40, DIM)
    centroids, codes, meta = trained(masker_of(metric, offset=offset), keys)
    width = DIM // 2 + (metric == "ip")
    assert centroids.shape == (BATCH, KV_HEADS, 2, 8, width)
    assert codes.shape == (BATCH, 40 - offset, KV_HEADS, 2)
    assert codes.dtype == torch.int64 and codes.min() >= 0 and codes.max() < 8
    assert meta["pq_centroids"][0] is centroids and meta["pq_codebook"][0] is codes
    quantised = keys[:, :, offset:]
    if metric == "ip":
        longest = quantised.unflatten(3, (2, 4)).square().sum(-1).amax(2)  # [batch, KV heads, parts]
        assert torch.allclose(meta["pq_ip2l2_phi"][0], longest.reshape(-1, 1, 1))
    else:
        assert meta["pq_ip2l2_phi"][0] is None
    error = (rebuilt(centroids, codes) - quantised).norm() / quantised.norm()
    assert error < 0.8
    reported = compute_reconstruction_errors(quantised, centroids, codes, DIM // 2, use_ip_metric=metric == "ip")
    assert reported["relative_error"] == pytest.approx(float(error), rel=1e-5)


def test_more_centroids_lose_less() -> None:
    keys = normal(BATCH, KV_HEADS, 80, DIM)
    errors = []
    for bits in (1, 3, 5):
        centroids, codes, _ = trained(masker_of(bits=bits), keys)
        errors.append(compute_reconstruction_errors(keys, centroids, codes, DIM // 2)["l2_error"])
    assert errors == sorted(errors, reverse=True)


def test_draws_are_of_torchs_generator() -> None:
    keys = normal(1, 1, 40, DIM)
    assert torch.equal(trained(masker_of(), keys)[0], trained(masker_of(), keys)[0])


def test_codebook_errors() -> None:
    with pytest.raises(ValueError, match="number of vectors"):
        trained(masker_of(), normal(1, 1, 7, DIM))
    with pytest.raises(ValueError, match="pq_group_factor must divide the dim 9"):
        trained(masker_of(), normal(1, 1, 40, 9))
    with pytest.raises(ValueError, match="must hold centroids"):
        masker_of()._handle_incremental_keys(normal(1, 1, 40, DIM), 0, {})


def test_what_is_new_among_keys() -> None:
    masker = masker_of(offset=4)
    keys = normal(1, KV_HEADS, 20, DIM)
    meta: dict[str, Any] = {}
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is None and new is not None and torch.equal(new, keys[:, :, 4:])
    meta["pq_codebook"] = {0: torch.zeros(1, 10, KV_HEADS, 2, dtype=torch.int64)}
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is meta["pq_codebook"][0]
    assert new is not None and torch.equal(new, keys[:, :, 14:])
    assert masker._determine_new_keys(keys[:, :, :14], meta, 0)[1] is None
    with pytest.raises(ValueError, match="Quantized region shrunk: 8 < 10"):
        masker._determine_new_keys(keys[:, :, :12], meta, 0)


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_later_keys_take_the_nearest_centroid(metric: str) -> None:
    masker = masker_of(metric)
    keys = normal(BATCH, KV_HEADS, 40, DIM)
    centroids, before, meta = trained(masker, keys)
    more = torch.cat([keys, 0.5 * normal(BATCH, KV_HEADS, 6, DIM, seed=9)], 2)
    got, codes = masker._handle_incremental_keys(more, 0, meta)
    assert got is centroids and torch.equal(codes[:, :40], before)
    assert meta["pq_codebook"][0] is codes
    assert torch.equal(
        codes[:, 40:], masker._quantize_new_keys(more[:, :, 40:], centroids, 0, meta)
    )
    x = more[:, :, 40:].unflatten(3, (2, 4)).permute(0, 2, 1, 3, 4).double()  # [batch, n, KV heads, parts, width]
    if metric == "ip":
        phi = meta["pq_ip2l2_phi"][0].double().view(BATCH, 1, KV_HEADS, 2)
        x = torch.cat([x, (phi - x.square().sum(-1)).clamp_min(0).sqrt().unsqueeze(-1)], -1)
    distances = (x.unsqueeze(4) - centroids.double().unsqueeze(1)).norm(dim=-1)
    assert torch.equal(codes[:, 40:], distances.argmin(-1))
    again, same = masker._handle_incremental_keys(more, 0, meta)
    assert again is centroids and same is codes


def test_codes_of_half_types_count_beyond_256() -> None:
    masker = masker_of(bits=9)
    keys = normal(1, 1, 600, DIM).bfloat16()
    centroids, codes, _ = trained(masker, keys)
    assert centroids.dtype == torch.bfloat16
    assert len(codes[..., 0].unique()) > 400 and codes.max() < 512


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_scores_are_products_with_what_codes_stand_for(metric: str) -> None:
    masker = masker_of(metric)
    keys, queries = normal(BATCH, KV_HEADS, 40, DIM), normal(BATCH, HEADS, 3, DIM, seed=5)
    centroids, codes, _ = trained(masker, keys)
    scores = masker._compute_pq_scores(queries, keys, centroids, codes)
    expected = queries.double() @ rebuilt(centroids, codes).double().repeat_interleave(2, 1).transpose(2, 3)
    assert scores.shape == (BATCH, HEADS, 3, 40)
    assert torch.allclose(scores.double(), expected, atol=1e-5)
    half = masker._compute_pq_scores(queries.half(), keys.half(), centroids.half(), codes)
    assert half.dtype == torch.float16


def test_score_errors() -> None:
    masker = masker_of()
    keys, queries = normal(BATCH, KV_HEADS, 40, DIM), normal(BATCH, HEADS, 3, DIM)
    centroids, codes, _ = trained(masker, keys)
    with pytest.raises(ValueError, match=r"codes must be in \[0, 8\)"):
        masker._compute_pq_scores(queries, keys, centroids, codes + 8)
    with pytest.raises(ValueError, match="do not fit"):
        masker._compute_pq_scores(queries[:, :3], keys, centroids, codes)


def test_the_mask_holds_the_best_keys_outside_the_previous_one() -> None:
    masker = masker_of(offset=2)
    dims = AttentionTensorDimensions(1, 1, 1, 10)
    scores = torch.tensor([5.0, 9.0, 1.0, 7.0, 3.0, 8.0]).view(1, 1, 1, 6)  # of keys 2 to 7
    held = torch.zeros(1, 1, 1, 10)
    held[..., [0, 3]] = 1
    previous = Mask.create_mask_from_dense_mask((1, 1, 1, 10), held, torch.float32)
    mask = masker._create_pq_mask(dims, scores, 2, previous, torch.device("cpu"))
    assert mask.get_dense_mask().flatten().tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 0, 0]


def test_full_attention_where_there_are_too_few_keys() -> None:
    masker = masker_of(offset=2)  # 5 + 2 + 3 + 8
    assert masker._should_use_full_attention(AttentionTensorDimensions(1, 1, 3, 18), 5)
    assert not masker._should_use_full_attention(AttentionTensorDimensions(1, 1, 3, 19), 5)


class Stepwise(PQCache):
    """PQCache by the steps, one of which is written again."""

    def _compute_pq_scores(self, *args: Any) -> torch.Tensor:
        return super()._compute_pq_scores(*args)


def test_add_mask_by_steps() -> None:
    masker = Stepwise(PQCacheConfig(5, 2, 3, 10, 2, "euclidean"))
    keys, queries = normal(1, KV_HEADS, 40, DIM), normal(1, HEADS, 1, DIM, seed=5)
    meta: dict[str, Any] = {}
    for count in (38, 40):
        held = torch.zeros(1, HEADS, 1, count)
        held[..., 7] = 0.5
        previous = Mask.create_mask_from_dense_mask(tuple(held.shape), held, torch.float32)
        mask = masker.add_mask(
            keys[:, :, :count], queries, keys[:, :, :count], None, 1.0, 0.0, meta, previous, layer_idx=0
        ).get_dense_mask()
        scores = masker._compute_pq_scores(queries, keys, meta["pq_centroids"][0], meta["pq_codebook"][0])
        scores = torch.nn.functional.pad(scores, (2, 0), value=-torch.inf).masked_fill(held > 0, -torch.inf)
        expected = held.scatter(-1, scores.topk(5).indices, 1)
        assert torch.equal(mask, expected)
    assert masker.add_mask(
        keys[:, :, :12], queries, keys[:, :, :12], None, 1.0, 0.0, {}, None, layer_idx=0
    ).is_full_mask()
