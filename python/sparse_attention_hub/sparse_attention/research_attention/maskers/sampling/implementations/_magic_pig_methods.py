"""MagicPIG step by step, as the Python hub's masker offers it: planes by its generator, signatures cached by layer."""

from __future__ import annotations

import torch

from .....utils.kv_utils import _get_num_key_value_groups, repeat_kv
from .....utils.mask import Mask
from ...base import SparseMetaData
from ...core_masker import CoreMasker, MaskerCall
from ...layer_view import LayerValue, entry_of_layer, new_keys_of, per_query_head
from ..base import SamplingMasker

_ops = torch.ops.sparse_attention_hub

_MEAN, _PLANES, _SIGNATURES = "key_mean", "projections", "key_signature"


class MagicPigMethods(CoreMasker, SamplingMasker):
    """What `MagicPig` offers beside `add_mask`, whose default draws other planes (config: `estimator`).

    Keys and queries have all heads. Signatures are [batch, heads, n, lsh_l] int64, a word a table, lowest bit first (packing
    "int64"), or [batch, heads, n, lsh_l * lsh_k] float32 of -1, 0 and 1 ("float32"). `sparse_meta_data` holds, by layer,
    `key_mean` [batch, heads, 1, dim], `projections` [dim + 1, lsh_l * lsh_k] and `key_signature`.
    """

    state_entries = (_MEAN, _PLANES, _SIGNATURES)

    lsh_l: int
    lsh_k: int
    center: bool
    packing: str
    seed: int | None

    def _pack_bits(self, signatures: torch.Tensor) -> torch.Tensor:
        """Signs [..., lsh_l * lsh_k] as int64 [..., lsh_l]: bit i of a word is 1 where sign i of its table is above 0."""
        words: torch.Tensor = _ops.pack_signs(signatures, self.lsh_k)
        return words

    def _compute_signatures(
        self, vectors: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> torch.Tensor:
        """The signatures of vectors [batch, heads, n, dim + 1]; planes are drawn at a layer's first use."""
        planes = entry_of_layer(sparse_meta_data, _PLANES, layer_idx)
        if planes is None:
            generator = torch.Generator().manual_seed((self.seed or 0) + layer_idx)
            drawn = torch.randn(vectors.shape[-1], self.lsh_l * self.lsh_k, generator=generator)
            planes = drawn.to(vectors.device, vectors.dtype)
            sparse_meta_data[_PLANES][layer_idx] = planes
        signs: torch.Tensor = _ops.projection_signs(vectors, planes)
        return self._pack_bits(signs) if self.packing == "int64" else signs

    def _center_KQ(
        self, keys: torch.Tensor, queries: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, queries) less the mean of the keys at a layer's first call; themselves where the config has no `center`."""
        mean = entry_of_layer(sparse_meta_data, _MEAN, layer_idx)
        if not self.center:
            return keys, queries
        if mean is None:
            mean = keys.mean(dim=2, keepdim=True)
            sparse_meta_data[_MEAN][layer_idx] = mean
        return keys - mean, queries - mean

    def _determine_new_keys(
        self, keys: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(the signatures that there are, the keys [batch, heads, n, dim] that have none), None where there are none.

        Raises:
            ValueError: There are fewer keys than signatures.
        """
        cached = entry_of_layer(sparse_meta_data, _SIGNATURES, layer_idx)
        return cached, new_keys_of(keys, 0 if cached is None else cached.shape[2])

    def _update_key_signatures(
        self, keys: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> torch.Tensor:
        """The signatures of transformed keys, kept in `sparse_meta_data["key_signature"][layer_idx]`.

        Raises:
            ValueError: There are fewer keys than signatures.
        """
        cached, new_keys = self._determine_new_keys(keys, sparse_meta_data, layer_idx)
        if new_keys is None:
            return cached if cached is not None else self._compute_signatures(keys, sparse_meta_data, layer_idx)
        signatures = self._compute_signatures(new_keys, sparse_meta_data, layer_idx)
        if cached is not None:
            signatures = torch.cat([cached, signatures], dim=2)
        sparse_meta_data[_SIGNATURES][layer_idx] = signatures
        return signatures

    def _transform_for_mips(self, keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of one channel more, whose angles order keys as products do.

        Args:
            keys: [batch, heads, keys, dim]; the longest of the whole tensor is the measure of all.
            queries: [batch, heads, queries, dim].

        Returns:
            (keys, queries), [..., dim + 1].
        """
        of_keys, of_queries = _ops.mips_transform(keys, queries)
        return of_keys, of_queries

    def _compute_probabilities(
        self, keys_transformed: torch.Tensor, queries_transformed: torch.Tensor
    ) -> torch.Tensor:
        """The probability that a key shares a bucket with a query in one table at least, [batch, heads, queries, keys]."""
        probabilities: torch.Tensor = _ops.collision_probability(
            keys_transformed, queries_transformed, self.lsh_k, self.lsh_l
        )
        return probabilities

    def _compute_matches_float32(
        self, keys_signatures: torch.Tensor, queries_signatures: torch.Tensor
    ) -> torch.Tensor:
        """1 where all signs of a table agree, int32 [batch, heads, queries, keys]; a sign 0 agrees with nothing."""
        matches: torch.Tensor = _ops.shared_signs(keys_signatures, queries_signatures, self.lsh_k)
        return matches

    def _compute_matches_int64(
        self, keys_signatures: torch.Tensor, queries_signatures: torch.Tensor
    ) -> torch.Tensor:
        """1 where the words of a table are equal, int32 [batch, heads, queries, keys]."""
        matches: torch.Tensor = _ops.shared_buckets(keys_signatures, queries_signatures)
        return matches

    def _compute_lsh_matches(
        self,
        keys_transformed: torch.Tensor,
        queries_transformed: torch.Tensor,
        sparse_meta_data: SparseMetaData,
        layer_idx: int,
    ) -> torch.Tensor:
        """1 where a key shares a bucket with a query in one table at least, int32 [batch, heads, queries, keys]."""
        of_keys = self._update_key_signatures(keys_transformed, sparse_meta_data, layer_idx)
        of_queries = self._compute_signatures(queries_transformed, sparse_meta_data, layer_idx)
        if self.packing == "int64":
            return self._compute_matches_int64(of_keys, of_queries)
        return self._compute_matches_float32(of_keys, of_queries)

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        assert call.sparse_meta_data is not None
        layer = call.kwargs["layer_idx"]
        repeated = repeat_kv(call.keys, _get_num_key_value_groups(call.queries, call.keys))
        centred = self._center_KQ(repeated, call.queries, call.sparse_meta_data, layer)
        on_sphere = self._transform_for_mips(*centred)
        probabilities = self._compute_probabilities(*on_sphere)
        weights = self._compute_lsh_matches(*on_sphere, call.sparse_meta_data, layer) * probabilities
        added = Mask.create_mask_from_dense_mask(
            tuple(weights.shape), weights.to(call.previous_mask.dtype), call.previous_mask.dtype
        )
        return call.previous_mask.merge_mask(added, inplace=False)

    def state_entry(
        self, entry: str, remembered: dict[str, torch.Tensor], layer: int, heads: int, dtype: torch.dtype
    ) -> LayerValue:
        if not remembered:
            return None
        if entry == _MEAN:
            return per_query_head(remembered["centre"].to(dtype, copy=True), heads) if self.center else None
        if entry == _PLANES:
            return remembered["planes"].flatten(0, 1).t().to(dtype).contiguous()
        words = remembered["buckets"].transpose(2, 3).to(torch.int64)
        if self.packing == "float32":
            words = _ops.unpack_signs(words, self.lsh_k, self.lsh_l * self.lsh_k)
        return per_query_head(words, heads).contiguous()
