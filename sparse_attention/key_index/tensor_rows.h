// Tensors of keys as the rows that functions without LibTorch read.
#ifndef SPARSE_ATTENTION_KEY_INDEX_TENSOR_ROWS_H_
#define SPARSE_ATTENTION_KEY_INDEX_TENSOR_ROWS_H_

#include <ATen/core/Tensor.h>

#include "sparse_attention/key_index/key_rows.h"

namespace sparse_attention {

// `keys` in a type that these functions read, a row's elements side by side; itself where it is so.
inline at::Tensor AsElements(const at::Tensor& keys) {
  const at::ScalarType type = keys.scalar_type();
  const bool known = type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
  const at::Tensor elements = known ? keys : keys.to(at::kFloat);
  return elements.stride(-1) == 1 ? elements : elements.contiguous();
}

// Rows of keys [batch, heads, n, dim], which AsElements made and which outlive the result.
inline cpu::KeyRows KeyRowsOf(const at::Tensor& keys, int64_t sequence, int64_t head) {
  const int64_t bytes = static_cast<int64_t>(keys.element_size());
  cpu::KeyRows rows;
  rows.data = static_cast<const char*>(keys.const_data_ptr()) +
              (sequence * keys.stride(0) + head * keys.stride(1)) * bytes;
  rows.element = keys.scalar_type() == at::kFloat  ? cpu::Element::kFloat32
                 : keys.scalar_type() == at::kHalf ? cpu::Element::kFloat16
                                                   : cpu::Element::kBFloat16;
  rows.row_stride = keys.stride(2) * bytes;
  rows.rows = keys.size(2);
  return rows;
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_TENSOR_ROWS_H_
