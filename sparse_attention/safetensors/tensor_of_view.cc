#include "sparse_attention/safetensors/tensor_of_view.h"

#include <ATen/ops/from_blob.h>

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

absl::StatusOr<at::ScalarType> ScalarTypeOf(SafetensorsDtype dtype) {
  switch (dtype) {
    case SafetensorsDtype::kF32:
      return at::kFloat;
    case SafetensorsDtype::kF16:
      return at::kHalf;
    case SafetensorsDtype::kBF16:
      return at::kBFloat16;
    default:
      return absl::UnimplementedError(
          absl::StrCat("weights must be F32, F16 or BF16, got ", DtypeName(dtype)));
  }
}

}  // namespace

absl::StatusOr<at::Tensor> TensorOfView(const TensorView& view, std::shared_ptr<const void> owner) {
  SA_ASSIGN_OR_RETURN(const at::ScalarType type, ScalarTypeOf(view.dtype));
  // It is only read: the mapping is write-protected.
  const at::Tensor mapped = at::from_blob(
      const_cast<std::byte*>(view.data), view.shape, [owner = std::move(owner)](void*) {},
      at::TensorOptions().dtype(type));
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % at::elementSize(type) == 0;
  return aligned ? mapped : mapped.clone();
}

}  // namespace sparse_attention
