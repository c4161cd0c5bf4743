#include "sparse_attention/base/tensor_check.h"

#include <c10/core/ScalarType.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sparse_attention {
namespace {

std::string ShapeText(at::IntArrayRef sizes) {
  return absl::StrCat("[", absl::StrJoin(sizes.begin(), sizes.end(), ", "), "]");
}

std::string TypeText(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    default:
      return absl::AsciiStrToLower(c10::toString(type));
  }
}

}  // namespace

std::string DescribeTensor(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  return absl::StrCat(TypeText(tensor.scalar_type()), " ", ShapeText(tensor.sizes()), " on ",
                      tensor.device().str());
}

absl::Status CheckRank(const at::Tensor& tensor, int64_t rank, absl::string_view name) {
  if (tensor.defined() && tensor.dim() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must have ", rank, " dimensions, got ", DescribeTensor(tensor)));
}

absl::Status CheckShape(const at::Tensor& tensor, const std::vector<int64_t>& shape,
                        absl::string_view name) {
  bool same = tensor.defined() && tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) {
    same = shape[i] == -1 || tensor.size(i) == shape[i];
  }
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must have shape ", ShapeText(shape), ", got ", DescribeTensor(tensor)));
}

absl::Status CheckFloating(const at::Tensor& tensor, absl::string_view name) {
  if (tensor.defined() && at::isFloatingType(tensor.scalar_type())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be floating point, got ", DescribeTensor(tensor)));
}

absl::Status CheckIndexType(const at::Tensor& tensor, absl::string_view name) {
  if (tensor.defined() && (tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be int64 or int32, got ", DescribeTensor(tensor)));
}

}  // namespace sparse_attention
