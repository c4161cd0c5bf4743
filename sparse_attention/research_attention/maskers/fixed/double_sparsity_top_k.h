// DoubleSparsityTopK: keeps the keys whose product with the query is highest over a few channels.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_

#include <memory>

#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

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

const MaskerDescriptor& DoubleSparsityTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_DOUBLE_SPARSITY_TOP_K_H_
