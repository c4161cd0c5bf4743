#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k_config.h"

#include "absl/strings/str_cat.h"

namespace sparse_attention {

absl::StatusOr<ChannelFile> LoadChannels(const DoubleSparsityTopKConfig& config) {
  absl::StatusOr<ChannelFile> file = ReadChannelFile(config.sorted_channel_file);
  if (!file.ok()) {
    return Annotate(file.status(), absl::StrCat(config.kName, ".sorted_channel_file"));
  }
  return file;
}

absl::StatusOr<ChannelLists> DoubleSparsityChannels(const ChannelFile& file,
                                                    const DoubleSparsityTopKConfig& config,
                                                    int64_t layer, int64_t query_heads,
                                                    int64_t dim) {
  const int64_t count = dim / config.group_factor;
  if (count == 0) {
    return RuleError("group_factor", absl::StrCat("must be at most the dim, ", dim),
                     absl::StrCat(config.group_factor));
  }
  absl::StatusOr<ChannelLists> lists = file.Layer(layer, config.channel_selection);
  if (!lists.ok()) return Annotate(lists.status(), config.sorted_channel_file);
  // The file guarantees a head, and lists of one length.
  const int64_t heads = static_cast<int64_t>(lists->size());
  const int64_t list_dim = static_cast<int64_t>(lists->front().size());
  if (heads != query_heads || list_dim != dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        config.sorted_channel_file, ": layer ", layer, " has lists of ", heads, " query heads and ",
        list_dim, " channels; the inputs have ", query_heads, " query heads of dim ", dim));
  }
  for (std::vector<int64_t>& list : *lists) list.resize(static_cast<size_t>(count));
  return lists;
}

}  // namespace sparse_attention
