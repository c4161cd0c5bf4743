"""PQCache: top-k on product-quantised keys (Zhang et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...base import MaskerConfig, MaskerRegistry
from ..base import TopKMaskerConfig
from ._pq_cache_methods import PQCacheMethods


@dataclass
class PQCacheConfig(TopKMaskerConfig):
    """Config of `PQCache`.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        pq_group_factor: Sub-vectors that a key is cut into.
        pq_bits: Bits of a code, 16 at most: 2^pq_bits centroids a sub-vector.
        kmeans_iter: Iterations of k-means at most.
        init_offset: Leading keys that are neither quantised nor selected.
        metric: What k-means makes small: "euclidean" distances, or errors of inner products ("ip").
        kmeans: "plus_plus": seeded k-means++ start, codes of the final centroids; "hub": the Python hub's rule.
        seed: Of the k-means++ start.
    """

    masker_type: ClassVar[str] = "pq_cache"

    pq_group_factor: int
    pq_bits: int
    kmeans_iter: int
    init_offset: int
    metric: str
    kmeans: str = field(default="plus_plus", kw_only=True)
    seed: int = field(default=42, kw_only=True)


@MaskerRegistry.register(PQCacheConfig)
class PQCache(PQCacheMethods):
    """Keeps the keys whose product with the query is highest by product quantisation."""

    config_class = PQCacheConfig
    needs_meta_data = True
    keeps_state = True
    steps = (
        "_perform_kmeans_clustering",
        "_handle_incremental_keys",
        "_determine_new_keys",
        "_quantize_new_keys",
        "_compute_pq_scores",
        "_create_pq_mask",
    )

    def __init__(self, config: MaskerConfig) -> None:
        assert isinstance(config, PQCacheConfig)
        self.pq_group_factor = config.pq_group_factor
        self.pq_bits = config.pq_bits
        self.kmeans_iter = config.kmeans_iter
        self.init_offset = config.init_offset
        self.metric = config.metric
        super().__init__(config)
