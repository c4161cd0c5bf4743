// FloatArray from and to LibTorch tensors.
#ifndef SPARSE_ATTENTION_KEY_INDEX_TENSOR_ARRAY_H_
#define SPARSE_ATTENTION_KEY_INDEX_TENSOR_ARRAY_H_

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <memory>
#include <utility>

#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

// Without a copy: for reading only. The tensor keeps `owner`, which holds the array, alive.
inline at::Tensor TensorOf(const FloatArray& array, std::shared_ptr<const void> owner) {
  return at::from_blob(
      const_cast<float*>(array.values.data()), array.shape, [owner = std::move(owner)](void*) {},
      at::TensorOptions().dtype(at::kFloat));
}

inline at::Tensor TensorOf(FloatArray array) {
  const auto owner = std::make_shared<const FloatArray>(std::move(array));
  return TensorOf(*owner, owner);
}

inline FloatArray ArrayOf(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kCPU, at::kFloat).contiguous();
  const float* const data = host.const_data_ptr<float>();
  return {host.sizes().vec(), {data, data + host.numel()}};
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_TENSOR_ARRAY_H_
