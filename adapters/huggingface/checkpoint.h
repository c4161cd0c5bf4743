// The weights of a checkpoint folder: model.safetensors, or model.safetensors.index.json and the
// shards it names.
//
// Open maps every file and checks that index and shards agree: each tensor is in the shard that the
// index says, and no shard holds a tensor that the index does not name. Where both forms are
// present, the single file is used, as transformers does. Errors name the file and the tensor.
#ifndef ADAPTERS_HUGGINGFACE_CHECKPOINT_H_
#define ADAPTERS_HUGGINGFACE_CHECKPOINT_H_

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/safetensors/safetensors.h"

namespace sparse_attention {

class Checkpoint {
 public:
  // NotFound if the folder, its weights or a shard is missing; InvalidArgument if a file is broken.
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::string& folder);

  // A copy of the view; its data is valid as long as the checkpoint lives. NotFound names file and
  // tensor.
  absl::StatusOr<TensorView> Get(absl::string_view name) const;
  bool Has(absl::string_view name) const;
  // The file that holds a tensor, for error messages; the folder if no file does.
  const std::string& FileOf(absl::string_view name) const;

  // Sorted.
  std::vector<std::string> names() const;
  // Bytes of all tensors, headers not counted.
  size_t total_bytes() const { return total_bytes_; }

 private:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const std::string& path);

  struct Entry {
    const TensorView* view;
    const std::string* path;
  };

  std::string folder_;
  std::string listing_;                           // the file that says which tensors there are
  std::map<std::string, SafetensorsFile> files_;  // path -> file
  absl::flat_hash_map<absl::string_view, Entry> tensors_;
  size_t total_bytes_ = 0;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_CHECKPOINT_H_
