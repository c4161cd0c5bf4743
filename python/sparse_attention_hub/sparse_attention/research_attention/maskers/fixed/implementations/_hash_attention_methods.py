"""HashAttention step by step, as the Python hub's masker offers it: signatures as -1, 0 and 1, cached by layer."""

from __future__ import annotations

from typing import Any

import torch

from .....utils.hashattention_utils import load_hat_weights
from .....utils.kv_utils import _get_num_key_value_groups, repeat_kv
from .....utils.mask import Mask
from ...base import SparseMetaData
from ...core_masker import CoreMasker, MaskerCall
from ...layer_view import LayerValue, entry_of_layer, new_keys_of, per_query_head
from ..base import TopKMasker

_ops = torch.ops.sparse_attention_hub

#: Layer -> {"query_matrix": [...], "query_bias": [...], "key_matrix": [...], "key_bias": [...]}, a tensor a linear map.
HatWeights = dict[int, dict[str, list[torch.Tensor]]]

_WORD_BITS = 32


class HashAttentionMethods(CoreMasker, TopKMasker):
    """What `HashAttentionTopKMasker` offers beside `add_mask`.

    Signatures are of the type of what they are made from, [batch, heads, n, bits]. An output of exactly 0 has the sign 0 here
    and counts as -1 in `add_mask`.
    """

    state_entries = ("key",)

    hat_mlp_activation: str
    hat_weight_file: str | None
    hat_weights: HatWeights | None

    def layer_weights(self, layer_idx: int) -> dict[str, list[torch.Tensor]]:
        """The weights of a layer, in the form of `hat_weights`.

        Raises:
            ValueError: There are none of this layer.
        """
        if self.hat_weights is None:
            assert self.hat_weight_file is not None
            self.hat_weights = load_hat_weights(self.hat_weight_file)
        weights = self.hat_weights.get(layer_idx)
        if weights is None:
            raise ValueError(f"hat_weights must have layer {layer_idx}, got layers {sorted(self.hat_weights)}")
        return weights

    def _get_signatures(
        self, input_tensor: torch.Tensor, matrix_list: list[torch.Tensor], bias_list: list[torch.Tensor]
    ) -> torch.Tensor:
        """The signs of an MLP's outputs.

        Args:
            input_tensor: [batch, heads, n, dim].
            matrix_list: A linear map after the other, each [heads, in, out].
            bias_list: Theirs, each [heads, out].

        Returns:
            [batch, heads, n, bits].

        Raises:
            ValueError: Shapes do not fit, or the activation is unknown.
        """
        device = input_tensor.device
        signs: torch.Tensor = _ops.hash_signs(
            input_tensor,
            [matrix.to(device) for matrix in matrix_list],
            [bias.to(device) for bias in bias_list],
            self.hat_mlp_activation,
        )
        return signs

    def _determine_new_keys(
        self, keys: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(the signatures that there are, the keys [batch, heads, n, dim] that have none), None where there are none.

        Raises:
            ValueError: There are fewer keys than signatures.
        """
        cached = entry_of_layer(sparse_meta_data, "key", layer_idx)
        return cached, new_keys_of(keys, 0 if cached is None else cached.shape[2])

    def _update_key_signatures(
        self, keys: torch.Tensor, sparse_meta_data: SparseMetaData, layer_idx: int, **kwargs: Any
    ) -> torch.Tensor:
        """The signatures of keys [batch, heads, n, dim], kept in `sparse_meta_data["key"][layer_idx]`.

        Raises:
            ValueError: There are fewer keys than signatures.
        """
        cached, new_keys = self._determine_new_keys(keys, sparse_meta_data, layer_idx)
        if new_keys is None:
            return cached if cached is not None else keys.new_empty((*keys.shape[:3], 0))
        weights = self.layer_weights(layer_idx)
        signatures = self._get_signatures(new_keys, weights["key_matrix"], weights["key_bias"])
        if cached is not None:
            signatures = torch.cat([cached, signatures], dim=2)
        sparse_meta_data["key"][layer_idx] = signatures
        return signatures

    def _compute_hashattention_score(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        attention_mask: torch.Tensor | None,
        previous_dense_mask: torch.Tensor,
        sparse_meta_data: SparseMetaData,
        layer_idx: int,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Products of signatures plus the attention mask; the type's lowest number where the previous mask is not 0.

        Args:
            queries: [batch, heads, queries, dim].
            keys: [batch, KV heads, keys, dim].
            attention_mask: Additive, or None.
            previous_dense_mask: [batch, heads, queries, keys].
            sparse_meta_data: Where key signatures are kept.
            layer_idx: Of the host model.
            **kwargs: Have no effect.

        Returns:
            [batch, heads, queries, keys].
        """
        repeated = repeat_kv(keys, _get_num_key_value_groups(queries, keys))
        of_keys = self._update_key_signatures(
            keys=repeated, sparse_meta_data=sparse_meta_data, layer_idx=layer_idx, **kwargs
        )
        weights = self.layer_weights(layer_idx)
        of_queries = self._get_signatures(queries, weights["query_matrix"], weights["query_bias"])
        scores: torch.Tensor = _ops.signature_scores(of_queries, of_keys, attention_mask, previous_dense_mask)
        return scores

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        assert call.sparse_meta_data is not None
        dims = self._extract_tensor_dimensions(call.keys, call.queries)
        size = self._calculate_effective_heavy_size(dims.seq_len_keys)
        if dims.seq_len_keys <= size:
            return self._create_full_mask(dims, call.previous_mask.dtype, call.queries.device)
        previous = call.previous_mask.get_dense_mask()
        scores = self._compute_hashattention_score(
            call.queries, call.keys, call.attention_mask, previous, call.sparse_meta_data, **call.kwargs
        )
        top = self._get_topk_indices_from_inactive_positions(scores, call.previous_mask, size)
        added = self._create_mask_from_rowise_indices(dims, top, call.queries.device, call.previous_mask.dtype)
        return call.previous_mask.merge_mask(added, inplace=False)

    def state_entry(
        self, entry: str, remembered: dict[str, torch.Tensor], layer: int, heads: int, dtype: torch.dtype
    ) -> LayerValue:
        words = remembered.get("signatures")
        if words is None:
            return None
        bits = self.layer_weights(layer)["key_matrix"][-1].shape[-1]
        signs: torch.Tensor = _ops.unpack_signs(words, _WORD_BITS, bits)
        return per_query_head(signs.to(dtype), heads)
