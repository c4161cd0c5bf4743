// Attention over all visible keys, fast: LibTorch's fused kernels where they can express the
// inputs, and the definition (DenseAttention), in pieces of queries, where they cannot.
#ifndef ADAPTERS_DENSE_PATH_H_
#define ADAPTERS_DENSE_PATH_H_

#include <ATen/core/Tensor.h>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

// [batch, query heads, queries, value dim] in q's type; the same as DenseAttention but for
// rounding. Extra memory does not grow with queries times keys. Errors as ValidateInputs.
absl::StatusOr<at::Tensor> FastDenseAttention(const AttentionInputs& inputs);

}  // namespace sparse_attention

#endif  // ADAPTERS_DENSE_PATH_H_
