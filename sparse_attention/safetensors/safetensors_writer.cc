#include "sparse_attention/safetensors/safetensors_writer.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status.h"
#include "sparse_attention/safetensors/safetensors_header.h"

namespace sparse_attention {
namespace {

// Sorts the tensors and returns everything that stands before their data. What the reader would
// refuse is refused here, by the reader's own checks.
absl::StatusOr<std::string> Preamble(std::vector<TensorView>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::tie(b.dtype, a.name) < std::tie(a.dtype, b.name);
  });
  uint64_t offset = 0;
  std::vector<std::string> entries;
  try {
    if (!metadata.empty()) {
      entries.push_back(absl::StrCat("\"__metadata__\":", nlohmann::json(metadata).dump()));
    }
    for (const TensorView& tensor : tensors) {
      const nlohmann::ordered_json info = {{"dtype", std::string(DtypeName(tensor.dtype))},
                                           {"shape", tensor.shape},
                                           {"data_offsets", {offset, offset + tensor.bytes}}};
      entries.push_back(absl::StrCat(nlohmann::json(tensor.name).dump(), ":", info.dump()));
      offset += tensor.bytes;
    }
  } catch (const nlohmann::json::type_error&) {  // the only reason why dump() throws
    return absl::InvalidArgumentError("tensor names and metadata must be UTF-8");
  }
  std::string json = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  json.append((8 - json.size() % 8) % 8, ' ');
  SA_ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(json));
  SA_RETURN_IF_ERROR(SortAndCheckLayout(header, offset));
  const uint64_t length = json.size();
  std::string preamble(sizeof(length), '\0');
  std::memcpy(preamble.data(), &length, sizeof(length));
  return preamble + json;
}

absl::string_view DataOf(const TensorView& tensor) {
  return {reinterpret_cast<const char*>(tensor.data), tensor.bytes};
}

}  // namespace

absl::StatusOr<std::string> SerializeSafetensors(
    std::vector<TensorView> tensors, const std::map<std::string, std::string>& metadata) {
  SA_ASSIGN_OR_RETURN(std::string file, Preamble(tensors, metadata));
  for (const TensorView& tensor : tensors) absl::StrAppend(&file, DataOf(tensor));
  return file;
}

absl::Status WriteSafetensors(const std::string& path, std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata) {
  absl::StatusOr<std::string> preamble = Preamble(tensors, metadata);
  if (!preamble.ok()) return Annotate(preamble.status(), path);
  const std::string temporary = absl::StrCat(path, ".partial");
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << *preamble;
  for (const TensorView& tensor : tensors) out << DataOf(tensor);
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot write"));
  }
  return absl::OkStatus();
}

}  // namespace sparse_attention
