// The config of DoubleSparsityTopK, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_CONFIG_H_

#include <cstdint>
#include <string>
#include <tuple>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

struct DoubleSparsityTopKConfig : TopKConfig {
  static constexpr char kName[] = "double_sparsity_top_k";
  std::string sorted_channel_file;
  int64_t group_factor = 16;
  int64_t label_bits = 4;
  ChannelSelection channel_selection = ChannelSelection::kQueryKey;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<DoubleSparsityTopKConfig>(),
        std::tuple(
            Field{"sorted_channel_file", &DoubleSparsityTopKConfig::sorted_channel_file,
                  "JSON file of channels by importance, from `sah calibrate`; {model}/ stands for "
                  "the model's folder.",
                  NonEmpty(), Required()},
            Field{"group_factor", &DoubleSparsityTopKConfig::group_factor,
                  "dim / group_factor channels are used.", Positive()},
            Field{"label_bits", &DoubleSparsityTopKConfig::label_bits,
                  "Bits of a channel's value; 16: not quantised.",
                  InLeftOpen(0, 16).Says("must be in range (0, 16]")},
            Field{"channel_selection", &DoubleSparsityTopKConfig::channel_selection,
                  "Which importance of the file: of queries, keys or their products."}));
  }
};

// The channel file that a config names. Errors name the field and the file.
absl::StatusOr<ChannelFile> LoadChannels(const DoubleSparsityTopKConfig& config);

// The channels that a layer's query heads use: [query heads][dim / group_factor]. InvalidArgument:
// there are none, or the file is for other heads.
absl::StatusOr<ChannelLists> DoubleSparsityChannels(const ChannelFile& file,
                                                    const DoubleSparsityTopKConfig& config,
                                                    int64_t layer, int64_t query_heads,
                                                    int64_t dim);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_CONFIG_H_
