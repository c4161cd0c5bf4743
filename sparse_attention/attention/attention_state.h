// AttentionState: the result of attention over some of the keys, as a value that can be merged.
//
// Split KV, exact and sampled parts, chunks and devices: each computes a state over its keys, and
// Merge gives the state over all of them. The base of the logarithm is part of the type, because
// engines differ in it and mixing two bases gives plausible but wrong outputs.
#ifndef SPARSE_ATTENTION_ATTENTION_ATTENTION_STATE_H_
#define SPARSE_ATTENTION_ATTENTION_ATTENTION_STATE_H_

#include <ATen/core/Tensor.h>

#include "sparse_attention/base/status.h"

namespace sparse_attention {

enum class LogBase { kE, k2 };

template <LogBase kBase>
struct BasicAttentionState {
  at::Tensor out;  // float32 [batch, heads, queries, value dim]; 0 for a row without keys
  at::Tensor lse;  // float32 [batch, heads, queries], log of the sum of exponentials; -inf for a
                   // row without keys
};

using AttentionState = BasicAttentionState<LogBase::kE>;
using Base2AttentionState = BasicAttentionState<LogBase::k2>;

// The state over no keys, the identity of Merge: out 0, lse -inf.
AttentionState EmptyState(at::IntArrayRef out_shape, at::Device device = at::kCPU);

// The state over the union of two disjoint sets of keys. Associative and commutative up to
// rounding. A row whose lse is NaN on either side is NaN, and a NaN output is passed on however
// small its side's share. An lse of +inf (an infinite logit) wins; two such rows are averaged,
// which is associative only where each stands for as many infinite logits. InvalidArgument: out has
// not 4 dimensions, or shapes differ.
absl::StatusOr<AttentionState> Merge(const AttentionState& a, const AttentionState& b);

AttentionState ToBaseE(const Base2AttentionState& state);
Base2AttentionState ToBase2(const AttentionState& state);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_ATTENTION_STATE_H_
