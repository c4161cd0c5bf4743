// Choosing keys by score: exact top-k with a defined tie rule, and scores shared by the query heads
// of a group.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SELECTION_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SELECTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// Bool [batch, query heads, queries, keys]: keys that are visible and that `previous` does not hold
// yet.
at::Tensor EligibleKeys(const AttentionInputs& inputs, const Mask& previous);

// The `k` eligible entries with the highest scores along the last dimension, as bool of the shape
// of `scores`; all eligible entries where there are no more than k. Of equal scores the lowest
// index wins. NaN counts as the highest. `scores` float32, `eligible` bool of the same shape.
at::Tensor SelectTopK(const at::Tensor& scores, const at::Tensor& eligible, int64_t k);

// `scores` [batch, query heads, queries, keys] plus the additive bias of the inputs, if any.
at::Tensor AddBias(const at::Tensor& scores, const AttentionInputs& inputs);

// One row of scores for the query heads that share a KV head: [batch, heads, queries, keys] reduced
// to [batch, KV heads, queries, keys]. Entries of a head that are not eligible for it do not take
// part.
at::Tensor ReduceGroup(const at::Tensor& scores, const at::Tensor& eligible, int64_t kv_heads,
                       GroupReduce reduce);
// True where any head of the group is.
at::Tensor AnyInGroup(const at::Tensor& flags, int64_t kv_heads);
// Back to query heads: [batch, KV heads, queries, keys] repeated to [batch, heads, queries, keys].
at::Tensor ExpandGroup(const at::Tensor& x, int64_t heads);

// `previous` with weight 1 at the true entries of `selected`.
Mask AddKeys(const Mask& previous, const at::Tensor& selected);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SELECTION_H_
