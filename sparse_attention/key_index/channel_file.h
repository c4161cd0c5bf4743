// ChannelFile: the channels of q and k that matter most, for every layer and query head: what
// Double Sparsity reads, in the file format of the Python hub.
//
// A JSON object. The member "model.layers.<layer>.self_attn.<selection>" is a list with a
// permutation of the channels 0 ... head dim - 1 for each query head, the most important channel
// first:
//   {"model.layers.0.self_attn.qk_proj": [[5, 0, 3, ...], [2, 7, 1, ...], ...], ...}
// `sah calibrate` writes such files. LibTorch-free.
//
// Source: Yang et al., "Post-training sparse attention with Double Sparsity", 2024.
#ifndef SPARSE_ATTENTION_KEY_INDEX_CHANNEL_FILE_H_
#define SPARSE_ATTENTION_KEY_INDEX_CHANNEL_FILE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// What the importance of a channel was measured on.
enum class ChannelSelection { kQuery, kKey, kQueryKey };
template <>
struct EnumNames<ChannelSelection> {
  static constexpr std::pair<ChannelSelection, const char*> kTable[] = {
      {ChannelSelection::kQuery, "q_proj"},
      {ChannelSelection::kKey, "k_proj"},
      {ChannelSelection::kQueryKey, "qk_proj"}};
};

// A permutation of the channels for each head: [heads][head dim].
using ChannelLists = std::vector<std::vector<int64_t>>;

class ChannelFile {
 public:
  // Every error here and below is InvalidArgument; the Python hub raises ValueError with messages
  // that begin alike:
  //   Channel file must contain a JSON object, got [1]
  //   Channel data for <key>[1] must be a list, got 4
  //   Channel indices for <key>[1] must be integers, got "a"
  //   Channel indices for <key>[1] must be distinct integers in [0, 64), got 64
  static absl::StatusOr<ChannelFile> FromJson(const Json& json);
  // A line for each member, so that versions of a file can be compared.
  std::string ToText() const;

  // "No sorted channels found for <key>", "Empty channel data for <key>".
  absl::StatusOr<ChannelLists> Layer(int64_t layer, ChannelSelection selection) const;
  // Replaces what is there. Errors as FromJson.
  absl::Status Set(int64_t layer, ChannelSelection selection, ChannelLists channels);

 private:
  std::vector<std::pair<std::string, ChannelLists>> members_;  // in the order of the file
};

// "Channel file not found: <path>", "Channel file must be a regular file of at most 64 MiB:
// <path>", "Invalid JSON in channel file: <path>: line 3, column 7: ..."; other errors begin with
// the path.
absl::StatusOr<ChannelFile> ReadChannelFile(const std::string& path);

// Through a temporary file beside `path`, so that nobody reads half of it.
absl::Status WriteChannelFile(const std::string& path, const ChannelFile& file);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_CHANNEL_FILE_H_
