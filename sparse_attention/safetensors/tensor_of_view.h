// Tensors of safetensors files as LibTorch tensors.
#ifndef SPARSE_ATTENTION_SAFETENSORS_TENSOR_OF_VIEW_H_
#define SPARSE_ATTENTION_SAFETENSORS_TENSOR_OF_VIEW_H_

#include <ATen/core/Tensor.h>

#include <memory>

#include "absl/status/statusor.h"
#include "sparse_attention/safetensors/safetensors.h"

namespace sparse_attention {

// float32, float16 or bfloat16, read-only and without a copy where the bytes are aligned: the
// tensor keeps `owner`, which holds the file, alive. Unimplemented for other types.
absl::StatusOr<at::Tensor> TensorOfView(const TensorView& view, std::shared_ptr<const void> owner);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SAFETENSORS_TENSOR_OF_VIEW_H_
