"""Adaptive sampling step by step, as the Python hub's masker offers it: its one-sided rule, draws by torch's generator."""

from __future__ import annotations

import torch

from .....utils.mask import Mask
from .....utils.mask_attention_utils import apply_inv_mask_sum, create_sampling_mask_with_per_head_budget
from ...core_masker import CoreMasker, MaskerCall
from ..base import SamplingMasker

_ops = torch.ops.sparse_attention_hub


class AdaptiveSamplingMethods(CoreMasker, SamplingMasker):
    """What `AdaptiveSamplingMasker` offers beside `add_mask`, whose default is another rule (config: `estimator`).

    Attributes:
        delta_ppf: The 1 - delta quantile of the standard normal distribution.
    """

    base_rate_sampling: float | int
    epsilon: float
    init_offset: float | int
    local_offset: float | int
    delta_ppf: float

    def adds_nothing(self) -> bool:
        return self.base_rate_sampling == 0

    def _compute_exp_attention_scores(
        self, queries: torch.Tensor, keys: torch.Tensor, scaling: float, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """exp(logit - row maximum over all keys), [batch, heads, queries, keys] of the queries' type."""
        exponentials, _ = _ops.masked_exponentials(queries, keys, attention_mask, scaling, None)
        return exponentials.to(queries.dtype)

    def should_return_full_mask(self, sampling_range: int) -> bool:
        """Whether there are too few keys to sample."""
        return sampling_range < 2

    def _get_sampling_range(self, seq_len_keys: int) -> tuple[int, int, int]:
        """(first key open to sampling, the key after the last one, how many)."""
        start = self._calculate_effective_size(self.init_offset, seq_len_keys)
        end = seq_len_keys - self._calculate_effective_size(self.local_offset, seq_len_keys)
        return start, end, end - start

    def _get_base_sample_count(self, sampling_range: int) -> int:
        """Draws of the base sample, at least 2."""
        return max(2, self._calculate_effective_size(self.base_rate_sampling, sampling_range))

    def _get_std_estimate_using_base_sample(
        self,
        expwts: torch.Tensor,
        batch_size: int,
        num_heads: int,
        seq_len_queries: int,
        seq_len_keys: int,
        start_idx: int,
        end_idx: int,
        num_base_samples: int,
        dtype: torch.dtype,
    ) -> tuple[Mask, torch.Tensor]:
        """Draws the base sample, with replacement, by torch's global generator.

        Args:
            expwts: exp of logits, [batch, heads, queries, keys].
            batch_size: Sequences.
            num_heads: Query heads.
            seq_len_queries: Queries.
            seq_len_keys: Keys.
            start_idx: The first key open to sampling.
            end_idx: The key after the last one.
            num_base_samples: Draws a row, at least 2.
            dtype: Of the mask.

        Returns:
            (the mask of the drawn keys with weight draws / keys open, 1 at most; the standard deviation of their exponentials,
            [batch, heads, queries, 1], at least 1e-8).
        """
        rows = (batch_size, num_heads, seq_len_queries)
        drawn = torch.randint(start_idx, end_idx, (*rows, num_base_samples), device=expwts.device)
        deviation = _ops.sample_deviation(expwts, drawn)
        weight = min(1.0, num_base_samples / (end_idx - start_idx))
        mask = Mask.create_from_row_wise_idx(
            shape=(*rows, seq_len_keys),
            row_wise_idx=drawn,
            data=torch.full(drawn.shape, weight, dtype=dtype, device=drawn.device),
            mask_type="dense",
            dtype=dtype,
        )
        return mask, deviation

    def _compute_adaptive_budget(
        self, std_estimate: torch.Tensor, estimated_denominator: torch.Tensor, sampling_range: int
    ) -> torch.Tensor:
        """Draws that keep the error below epsilon with probability 1 - delta, by the hub's one-sided rule.

        Args:
            std_estimate: Standard deviation of the summands, [..., 1].
            estimated_denominator: Their sum, with what is kept for certain, [..., 1].
            sampling_range: Keys open to sampling.

        Returns:
            int64 [..., 1] in [1, sampling_range].
        """
        budget: torch.Tensor = _ops.adaptive_budget(
            std_estimate, estimated_denominator, self.delta_ppf, self.epsilon, sampling_range
        )
        return budget

    def _add_mask_in_steps(self, call: MaskerCall) -> Mask:
        dims = self._extract_tensor_dimensions(call.keys, call.queries)
        start, end, count = self._get_sampling_range(dims.seq_len_keys)
        if self.should_return_full_mask(count):
            return self._create_full_mask(dims, call.previous_mask.dtype, call.queries.device)
        exponentials = self._compute_exp_attention_scores(call.queries, call.keys, call.scaling, call.attention_mask)
        base = self._get_base_sample_count(count)
        base_mask, deviation = self._get_std_estimate_using_base_sample(
            exponentials,
            dims.batch_size,
            dims.num_heads,
            dims.seq_len_queries,
            dims.seq_len_keys,
            start,
            end,
            base,
            call.previous_mask.dtype,
        )
        total = apply_inv_mask_sum(exponentials, call.previous_mask) + apply_inv_mask_sum(exponentials, base_mask)
        budget = self._compute_adaptive_budget(deviation, total, count).clamp(min(base, count), count)
        probability = (budget / count).to(call.previous_mask.dtype)
        sampled = create_sampling_mask_with_per_head_budget(
            budget, probability, dims.seq_len_keys, start, end, call.previous_mask.dtype
        )
        return call.previous_mask.merge_mask(sampled, inplace=False)
