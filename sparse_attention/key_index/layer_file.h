// A safetensors file that holds weights of an index, named by layer: "layers.{l}.{rest}".
// LibTorch-free.
#ifndef SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_H_
#define SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

struct LayerFile {
  std::map<std::string, std::string> metadata;
  std::map<int64_t, std::map<std::string, FloatArray>> layers;  // layer -> rest of the name
};

// Reads all of `path`, whose metadata must name `format`: float32, float16 or bfloat16. NotFound,
// InvalidArgument or Unimplemented name the file and the tensor: no such file, not safetensors,
// another format, a tensor that is not a layer's, values that are not finite.
absl::StatusOr<LayerFile> ReadLayerFile(const std::string& path, absl::string_view format);

// "{path}: layers.{l}.{name} {rule}, got {what}" as InvalidArgument.
absl::Status LayerFileError(absl::string_view path, int64_t layer, absl::string_view name,
                            absl::string_view rule, absl::string_view got);

// InvalidArgument: `layers`, a map by layer, has no `layer`.
template <typename Map>
absl::Status NoSuchLayer(absl::string_view path, int64_t layer, const Map& layers) {
  std::string held;
  for (const auto& [number, weights] : layers) {
    absl::StrAppend(&held, held.empty() ? "" : ", ", number);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": has no layer ", layer, ", its layers are ", held));
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_H_
