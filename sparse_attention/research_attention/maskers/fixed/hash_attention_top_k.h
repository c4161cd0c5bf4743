// HashAttentionTopK: keeps the keys whose learned bit signatures agree most with the query's.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_

#include <memory>

#include "sparse_attention/key_index/hash_attention_weights.h"
#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class HashAttentionTopK final : public TopKMasker {
 public:
  using Config = HashAttentionTopKConfig;
  HashAttentionTopK(const HashAttentionTopKConfig& config, const MaskerOptions& options,
                    std::shared_ptr<const HashAttentionWeights> weights);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Agreeing less disagreeing bits, plus the bias.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;

  const HashAttentionTopKConfig config_;
  const std::shared_ptr<const HashAttentionWeights> weights_;
};

const MaskerDescriptor& HashAttentionTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_
