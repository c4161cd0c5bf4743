// PqCache: keeps the keys whose product with the query is highest by product quantisation.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_

#include "sparse_attention/research_attention/maskers/fixed/pq_cache_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class PqCache final : public TopKMasker {
 public:
  using Config = PqCacheConfig;
  PqCache(const PqCacheConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Products with the reconstructed keys; where there is a bias, scaled like logits and with it.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;
  // Also where there are too few keys to quantise.
  bool KeepsAll(const AttentionInputs& inputs, int64_t k) const override;
  int64_t FirstCandidate() const override { return config_.init_offset; }

  const PqCacheConfig config_;
};

const MaskerDescriptor& PqCacheDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_
