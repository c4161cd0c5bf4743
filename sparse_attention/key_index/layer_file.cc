#include "sparse_attention/key_index/layer_file.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/safetensors/safetensors.h"

namespace sparse_attention {
namespace {

// Elements of stored type T, which may be unaligned, widened.
template <typename T>
std::vector<float> Widen(const TensorView& view) {
  std::vector<float> values(view.bytes / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T element;
    std::memcpy(&element, view.data + i * sizeof(T), sizeof(T));
    values[i] = cpu::ToFloat(element);
  }
  return values;
}

absl::StatusOr<FloatArray> ReadArray(const TensorView& view) {
  FloatArray array;
  array.shape = view.shape;
  switch (view.dtype) {
    case SafetensorsDtype::kF32:
      array.values = Widen<float>(view);
      break;
    case SafetensorsDtype::kF16:
      array.values = Widen<cpu::Float16>(view);
      break;
    case SafetensorsDtype::kBF16:
      array.values = Widen<cpu::BFloat16>(view);
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("weights must be F32, F16 or BF16, got ", DtypeName(view.dtype)));
  }
  for (float value : array.values) {
    if (!std::isfinite(value)) {
      return absl::InvalidArgumentError("holds values that are not finite");
    }
  }
  return array;
}

}  // namespace

absl::Status LayerFileError(absl::string_view path, int64_t layer, absl::string_view name,
                            absl::string_view rule, absl::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": layers.", layer, ".", name, " ", rule, ", got ", got));
}

absl::StatusOr<LayerFile> ReadLayerFile(const std::string& path, absl::string_view format) {
  // The placeholder is resolved by hosts that have a model: see ResolveModelPaths.
  if (absl::StartsWith(path, "{model}")) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": \"{model}\" stands for the folder of the model, and there is none here"));
  }
  SA_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  LayerFile result;
  result.metadata = file.metadata();
  if (const std::string& found = result.metadata["format"]; found != format) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": metadata \"format\" must be \"", format, "\", got \"", found, "\""));
  }
  for (const TensorView& view : file.tensors()) {
    const std::string where = absl::StrCat(path, ": tensor ", view.name);
    const std::vector<std::string> parts = absl::StrSplit(view.name, absl::MaxSplits('.', 2));
    int64_t layer = -1;
    if (parts.size() != 3 || parts[0] != "layers" || !absl::SimpleAtoi(parts[1], &layer) ||
        layer < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " must be named layers.{layer}.{name}"));
    }
    absl::StatusOr<FloatArray> array = ReadArray(view);
    if (!array.ok()) return Annotate(array.status(), where);
    result.layers[layer][parts[2]] = *std::move(array);
  }
  return result;
}

}  // namespace sparse_attention
