// DoubleSparsityTopK: keeps the keys whose product with the query is highest over a few channels.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_

#include <memory>
#include <string>
#include <tuple>

#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

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

class DoubleSparsityTopK final : public TopKMasker {
 public:
  using Config = DoubleSparsityTopKConfig;
  DoubleSparsityTopK(const DoubleSparsityTopKConfig& config, const MaskerOptions& options,
                     std::shared_ptr<const ChannelFile> channels);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Products over the first dim / group_factor channels of the layer's and head's list, plus the
  // bias.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;
  bool KeepsAll(const AttentionInputs& inputs, int64_t k) const override {
    return k >= inputs.keys() || inputs.keys() - inputs.queries() <= k;
  }
  absl::StatusOr<at::Tensor> ChannelsOf(const AttentionInputs& inputs) const;

  const DoubleSparsityTopKConfig config_;
  const std::shared_ptr<const ChannelFile> channels_;
};

// The channels that a layer's query heads use, int64 [query heads, dim / group_factor] on the host.
// InvalidArgument: there are none, or the file is for other heads.
absl::StatusOr<at::Tensor> DoubleSparsityChannels(const ChannelFile& file,
                                                  const DoubleSparsityTopKConfig& config,
                                                  int64_t layer, int64_t query_heads, int64_t dim);

const MaskerDescriptor& DoubleSparsityTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_
