// Attention over the keys that a mask selects, the definition that every kernel is tested against.
//
// Weighted exponentials e_j = exp(x_j) / p_j over the active visible keys (x_j logit, p_j mask
// weight) give
//   out = sum e_j v_j / (sum e_j + exp(sink)),  lse = log(sum e_j + exp(sink)).
#ifndef SPARSE_ATTENTION_ATTENTION_MASKED_ATTENTION_H_
#define SPARSE_ATTENTION_ATTENTION_MASKED_ATTENTION_H_

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/attention_state.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// In C++ a mask is taken at its word: an Empty mask selects nothing. Edge contract, a row each:
//   no visible selected key   out 0, lse -inf (with a sink: lse is the sink)
//   one                       its value bit for bit (a -0 may become 0), lse is its logit
//   a logit of +inf           that key's value, ties averaged, lse +inf
//   NaN in a selected key     NaN in that row only, however small its weight
//   NaN or infinity in an unselected or invisible key: no effect
// InvalidArgument: ValidateInputs fails, or the mask has another shape or device.
absl::StatusOr<AttentionState> MaskedAttention(const AttentionInputs& inputs, const Mask& mask);

// Attention over all visible keys.
absl::StatusOr<AttentionState> DenseAttention(const AttentionInputs& inputs);

// The normalised attention weights of MaskedAttention, float32 [batch, heads, queries, keys]; a row
// sums to 1, less what a sink takes.
absl::StatusOr<at::Tensor> MaskedAttentionWeights(const AttentionInputs& inputs, const Mask& mask);

// ||out - dense|| / ||dense|| per row, float32 [batch, heads, queries]: the true relative error of
// an output against attention over all visible keys on identical inputs, sinks included. 0 where
// both are 0; infinity where only the dense output is.
absl::StatusOr<at::Tensor> RelativeOutputError(const at::Tensor& out, const at::Tensor& dense);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_MASKED_ATTENTION_H_
