// OracleTopK: keeps the keys with the highest exact attention logits. It reads every key, so it
// saves no scoring; it is the upper bound that top-k methods with an index are measured against.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_H_

#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class OracleTopK final : public TopKMasker {
 public:
  using Config = OracleTopKConfig;
  OracleTopK(const OracleTopKConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }

 private:
  // The logits: scaling does not change their order, a bias of finite values is weighed as
  // attention weighs it.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  const OracleTopKConfig config_;
};

const MaskerDescriptor& OracleTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_H_
