// Checks of tensor arguments that return Status: the argument's name, the rule, and what was seen.
#ifndef SPARSE_ATTENTION_BASE_TENSOR_CHECK_H_
#define SPARSE_ATTENTION_BASE_TENSOR_CHECK_H_

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

// "float32 [2, 8, 1, 64] on cpu", or "undefined".
std::string DescribeTensor(const at::Tensor& tensor);

// Defined, with `rank` dimensions.
absl::Status CheckRank(const at::Tensor& tensor, int64_t rank, absl::string_view name);

// Defined, with exactly this shape; -1 accepts any size.
absl::Status CheckShape(const at::Tensor& tensor, const std::vector<int64_t>& shape,
                        absl::string_view name);

// float32, float16 or bfloat16 (or float64 where a reference is computed).
absl::Status CheckFloating(const at::Tensor& tensor, absl::string_view name);

// int32 or int64.
absl::Status CheckIndexType(const at::Tensor& tensor, absl::string_view name);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_TENSOR_CHECK_H_
