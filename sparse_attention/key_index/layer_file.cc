#include "sparse_attention/key_index/layer_file.h"

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/safetensors/safetensors.h"
#include "sparse_attention/safetensors/tensor_of_view.h"

namespace sparse_attention {

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
  SA_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
  const auto file = std::make_shared<const SafetensorsFile>(std::move(opened));
  LayerFile result;
  result.metadata = file->metadata();
  if (const std::string& found = result.metadata["format"]; found != format) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": metadata \"format\" must be \"", format, "\", got \"", found, "\""));
  }
  for (const TensorView& view : file->tensors()) {
    const std::string where = absl::StrCat(path, ": tensor ", view.name);
    const std::vector<std::string> parts = absl::StrSplit(view.name, absl::MaxSplits('.', 2));
    int64_t layer = -1;
    if (parts.size() != 3 || parts[0] != "layers" || !absl::SimpleAtoi(parts[1], &layer) ||
        layer < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " must be named layers.{layer}.{name}"));
    }
    absl::StatusOr<at::Tensor> tensor = CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
      SA_ASSIGN_OR_RETURN(const at::Tensor mapped, TensorOfView(view, file));
      const at::Tensor copy = mapped.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
      if (!copy.isfinite().all().item<bool>()) {
        return absl::InvalidArgumentError("holds values that are not finite");
      }
      return copy;
    });
    if (!tensor.ok()) return Annotate(tensor.status(), where);
    result.layers[layer][parts[2]] = *std::move(tensor);
  }
  return result;
}

}  // namespace sparse_attention
