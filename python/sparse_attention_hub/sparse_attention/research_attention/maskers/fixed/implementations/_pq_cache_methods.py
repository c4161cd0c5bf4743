"""PQCache step by step, as the Python hub's masker offers it: codebooks by the hub's k-means, cached by layer."""

from __future__ import annotations

import torch

from .....utils.mask import Mask
from ...base import AttentionTensorDimensions, SparseMetaData
from ...core_masker import CoreMasker, MaskerCall
from ...layer_view import LayerValue, entry_of_layer
from ..base import TopKMasker
from .utils.pq_utils import ip2l2_augment, kmeans_batched_pytorch

_ops = torch.ops.sparse_attention_hub

_CENTROIDS, _CODES, _PHI = "pq_centroids", "pq_codebook", "pq_ip2l2_phi"


class PQCacheMethods(CoreMasker, TopKMasker):
    """What `PQCache` offers beside `add_mask`.

    Keys are cut into `pq_group_factor` sub-vectors; the first `init_offset` keys have no codes. `sparse_meta_data` holds, by
    layer, `pq_centroids` [batch, KV heads, sub-vectors, 2^pq_bits, width], with a channel more for the metric "ip",
    `pq_codebook` int64 [batch, n, KV heads, sub-vectors], and for "ip" `pq_ip2l2_phi` [batch * KV heads * sub-vectors, 1, 1].
    k-means starts from vectors drawn by torch's global generator, whatever the config's `kmeans`, which is of `add_mask`.
    """

    state_entries = (_CENTROIDS, _CODES, _PHI)

    pq_group_factor: int
    pq_bits: int
    kmeans_iter: int
    init_offset: int
    metric: str

    def _initialize_pq_cache(self, sparse_meta_data: SparseMetaData, layer_idx: int) -> None:
        """Makes the entries of a layer, None, where they are missing."""
        for entry in self.state_entries:
            layers = sparse_meta_data.setdefault(entry, {})
            if layer_idx not in layers:
                layers[layer_idx] = None

    def _perform_kmeans_clustering(
        self, keys: torch.Tensor, layer_idx: int, sparse_meta_data: SparseMetaData
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learns centroids from keys [batch, KV heads, keys, dim] and stores all entries of the layer.

        Returns:
            (centroids, codes).

        Raises:
            ValueError: There are fewer keys than centroids, or the dim is no multiple of the sub-vectors.
        """
        self._initialize_pq_cache(sparse_meta_data, layer_idx)
        batch, kv_heads = keys.shape[:2]
        vectors = self._subvectors(keys[:, :, self.init_offset :], self.pq_group_factor)
        phi = None
        if self.metric == "ip":
            vectors, phi = ip2l2_augment(vectors)
        centroids, codes = kmeans_batched_pytorch(vectors, 2**self.pq_bits, self.kmeans_iter)
        centroids = centroids.unflatten(0, (batch, kv_heads, self.pq_group_factor))
        codebook = _codebook(codes, batch, kv_heads)
        for entry, value in ((_CENTROIDS, centroids), (_CODES, codebook), (_PHI, phi)):
            sparse_meta_data[entry][layer_idx] = value
        return centroids, codebook

    def _handle_incremental_keys(
        self, keys: torch.Tensor, layer_idx: int, sparse_meta_data: SparseMetaData
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gives codes to keys [batch, KV heads, keys, dim] that have none; centroids stay.

        Returns:
            (centroids, codes).

        Raises:
            ValueError: There are fewer keys than codes, or no centroids.
        """
        centroids = entry_of_layer(sparse_meta_data, _CENTROIDS, layer_idx)
        if centroids is None:
            raise ValueError(f"sparse_meta_data['{_CENTROIDS}'][{layer_idx}] must hold centroids, got None")
        cached, new_keys = self._determine_new_keys(keys, sparse_meta_data, layer_idx)
        if new_keys is None:
            assert cached is not None
            return centroids, cached
        codebook = self._quantize_new_keys(new_keys, centroids, layer_idx, sparse_meta_data)
        if cached is not None:
            codebook = torch.cat([cached, codebook], dim=1)
        sparse_meta_data[_CODES][layer_idx] = codebook
        return centroids, codebook

    def _determine_new_keys(
        self, keys: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(the codes that there are, the keys that have none), None where there are none.

        Raises:
            ValueError: There are fewer keys than codes.
        """
        cached = entry_of_layer(sparse_meta_data, _CODES, layer_idx)
        if cached is None:
            return None, keys[:, :, self.init_offset :]
        now, before = keys.shape[2] - self.init_offset, cached.shape[1]
        if now < before:
            raise ValueError(f"Quantized region shrunk: {now} < {before}")
        return cached, keys[:, :, self.init_offset + before :] if now > before else None

    def _quantize_new_keys(
        self, new_keys: torch.Tensor, centroids: torch.Tensor, layer_idx: int, sparse_meta_data: SparseMetaData
    ) -> torch.Tensor:
        """The codes [batch, n, KV heads, sub-vectors] of keys [batch, KV heads, n, dim], the nearest centroids.

        For the metric "ip" keys get the channel that they would have had in training, sqrt(phi - |x|^2) with the stored phi;
        the Python hub gives them 0.
        """
        batch, kv_heads = new_keys.shape[:2]
        vectors = self._subvectors(new_keys, centroids.shape[2])
        phi = entry_of_layer(sparse_meta_data, _PHI, layer_idx)
        if self.metric == "ip" and phi is not None:
            vectors = _ops.pq_add_norm_channel(vectors, phi)
        codes = _ops.k_means_assign(vectors, centroids.flatten(0, 2))
        return _codebook(codes, batch, kv_heads)

    def _compute_pq_scores(
        self, queries: torch.Tensor, keys: torch.Tensor, centroids: torch.Tensor, codebook: torch.Tensor
    ) -> torch.Tensor:
        """Products of queries [batch, heads, queries, dim] with the keys that codes stand for, unscaled.

        Returns:
            [batch, heads, queries, n].
        """
        scores: torch.Tensor = _ops.pq_scores(queries, centroids, codebook)
        return scores

    def _create_pq_mask(
        self,
        dims: AttentionTensorDimensions,
        scores: torch.Tensor,
        effective_heavy_size: int,
        previous_mask: Mask,
        device: torch.device | str,
    ) -> Mask:
        """A mask of the keys with the highest scores [batch, heads, queries, n] outside `previous_mask`, which is not in it."""
        coded = slice(self.init_offset, self.init_offset + scores.shape[3])
        previous = previous_mask.get_dense_mask()[..., coded]
        top = _ops.top_k_outside(scores, previous, effective_heavy_size)
        return self._create_mask_from_rowise_indices(dims, top + self.init_offset, device, previous_mask.dtype)

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        assert call.sparse_meta_data is not None
        layer = call.kwargs["layer_idx"]
        dims = self._extract_tensor_dimensions(call.keys, call.queries)
        size = self._calculate_effective_heavy_size(dims.seq_len_keys)
        if self._should_use_full_attention(dims, size):
            return self._create_full_mask(dims, call.previous_mask.dtype, call.queries.device)
        if entry_of_layer(call.sparse_meta_data, _CENTROIDS, layer) is None:
            centroids, codebook = self._perform_kmeans_clustering(call.keys, layer, call.sparse_meta_data)
        else:
            centroids, codebook = self._handle_incremental_keys(call.keys, layer, call.sparse_meta_data)
        scores = self._compute_pq_scores(call.queries, call.keys, centroids, codebook)
        added = self._create_pq_mask(dims, scores, size, call.previous_mask, call.queries.device)
        return call.previous_mask.merge_mask(added, inplace=False)

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, heavy_size: int) -> bool:
        besides = self.init_offset + dims.seq_len_queries + 2**self.pq_bits
        return dims.seq_len_keys <= heavy_size + besides

    def _subvectors(self, keys: torch.Tensor, parts: int) -> torch.Tensor:
        """Keys [batch, KV heads, n, dim] as [batch * KV heads * parts, n, dim / parts]."""
        if keys.shape[3] % parts:
            raise ValueError(f"pq_group_factor must divide the dim {keys.shape[3]}, got {parts}")
        return keys.unflatten(3, (parts, -1)).transpose(2, 3).flatten(0, 2)

    def state_entry(
        self, entry: str, remembered: dict[str, torch.Tensor], layer: int, heads: int, dtype: torch.dtype
    ) -> LayerValue:
        if entry == _CODES:
            codes = remembered.get("codes")
            return None if codes is None else codes.permute(0, 3, 1, 2).to(torch.int64, copy=True).contiguous()
        tensor = remembered.get("centroids" if entry == _CENTROIDS else "phi")
        if tensor is None:
            return None
        return (tensor if entry == _CENTROIDS else tensor.reshape(-1, 1, 1)).to(dtype, copy=True)


def _codebook(codes: torch.Tensor, batch: int, kv_heads: int) -> torch.Tensor:
    """Codes [batch * KV heads * sub-vectors, n] as [batch, n, KV heads, sub-vectors]."""
    return codes.unflatten(0, (batch, kv_heads, -1)).permute(0, 3, 1, 2).contiguous()
