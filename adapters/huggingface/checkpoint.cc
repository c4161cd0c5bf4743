#include "adapters/huggingface/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr absl::string_view kSingleFile = "model.safetensors";
constexpr absl::string_view kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 100'000'000;

// An index must not reach outside its folder.
bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name.find_first_of(absl::string_view("/\\\0", 3)) == name.npos &&
         !absl::StrContains(name, "..") && name != ".";
}

// tensor -> shard
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(path, kMaxIndexBytes));
  const absl::StatusOr<nlohmann::json> index = ParseJsonObject(text);
  if (!index.ok()) return Annotate(index.status(), path);
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map must be an object from tensor to file"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": weight_map[", JsonExcerpt(tensor),
          "] must be the name of a file in the same folder, got ", JsonExcerpt(shard)));
    }
    shards.emplace(tensor, shard.get<std::string>());
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat(folder, ": no such model folder"));
  }
  const auto path_of = [&](absl::string_view name) {
    return (fs::path(folder) / std::string(name)).string();
  };
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint(folder));
  if (const std::string single = path_of(kSingleFile); fs::exists(single, error)) {
    checkpoint->listing_ = single;
    SA_RETURN_IF_ERROR(checkpoint->AddFile(single));
    return checkpoint;
  }
  const std::string index = path_of(kIndexFile);
  if (!fs::exists(index, error)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": has neither ", kSingleFile, " nor ", kIndexFile));
  }
  checkpoint->listing_ = index;
  SA_ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(index));
  std::map<std::string, std::string> first_tensor_of;  // shard path -> a tensor that needs it
  for (const auto& [tensor, shard] : shard_of) first_tensor_of.emplace(path_of(shard), tensor);
  for (const auto& [path, tensor] : first_tensor_of) {
    if (!fs::exists(path, error)) {
      return absl::NotFoundError(absl::StrCat(index, ": weight_map[", JsonExcerpt(tensor),
                                              "] is in ", path, ", which does not exist"));
    }
    SA_RETURN_IF_ERROR(checkpoint->AddFile(path));
  }
  for (const auto& [tensor, shard] : shard_of) {
    if (!checkpoint->Has(tensor)) {
      return absl::InvalidArgumentError(absl::StrCat(path_of(shard), ": has no tensor ",
                                                     JsonExcerpt(tensor), ", which ", index,
                                                     " says is there"));
    }
  }
  for (const auto& [tensor, entry] : checkpoint->tensors_) {
    const auto named = shard_of.find(std::string(tensor));
    if (named == shard_of.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          *entry.path, ": tensor ", JsonExcerpt(std::string(tensor)), " is not in ", index));
    }
    if (path_of(named->second) != *entry.path) {
      return absl::InvalidArgumentError(
          absl::StrCat(*entry.path, ": tensor ", JsonExcerpt(std::string(tensor)), " should be in ",
                       path_of(named->second), ", as ", index, " says"));
    }
  }
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
  const auto& [key, file] = *files_.emplace(path, std::move(opened)).first;
  for (const TensorView& view : file.tensors()) {
    const auto [present, added] = tensors_.emplace(view.name, Entry{&view, &key});
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", JsonExcerpt(view.name),
                                                     " is also in ", *present->second.path));
    }
    total_bytes_ += view.bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> Checkpoint::Get(absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(
        absl::StrCat(listing_, ": has no tensor ", JsonExcerpt(std::string(name))));
  }
  return *found->second.view;
}

bool Checkpoint::Has(absl::string_view name) const { return tensors_.contains(name); }

const std::string& Checkpoint::FileOf(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? folder_ : *found->second.path;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) names.emplace_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace sparse_attention
