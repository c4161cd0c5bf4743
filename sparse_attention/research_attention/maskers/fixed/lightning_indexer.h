// LightningIndexer: keeps the keys that a few small, trained indexer heads score highest, the same
// keys for all query heads.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_H_

#include <memory>

#include "sparse_attention/key_index/indexer_keys.h"
#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class LightningIndexer final : public TopKMasker {
 public:
  using Config = LightningIndexerConfig;
  LightningIndexer(const LightningIndexerConfig& config, const MaskerOptions& options,
                   std::shared_ptr<const IndexerWeights> weights);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;

  const LightningIndexerConfig config_;
  const std::shared_ptr<const IndexerWeights> weights_;
};

const MaskerDescriptor& LightningIndexerDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_H_
