// The oracle: masked attention in float64 by plain loops, slow and obviously right.
//
// Shares no code with MaskedAttention. For tests and for judging other implementations.
#ifndef SPARSE_ATTENTION_ATTENTION_REFERENCE_ATTENTION_H_
#define SPARSE_ATTENTION_ATTENTION_REFERENCE_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

struct ReferenceState {
  at::Tensor out;  // float64 [batch, heads, queries, value dim]
  at::Tensor lse;  // float64 [batch, heads, queries], natural logarithm
};

// The same definition and errors as MaskedAttention; CPU tensors only.
absl::StatusOr<ReferenceState> ReferenceAttention(const AttentionInputs& inputs, const Mask& mask);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_REFERENCE_ATTENTION_H_
