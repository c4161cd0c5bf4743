// OracleTopP: keeps the fewest keys that hold a share top_p of the exact attention mass. It reads
// every key; it is the upper bound of methods that adapt their budget to the mass.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_H_

#include "sparse_attention/research_attention/maskers/fixed/oracle_top_p_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"

namespace sparse_attention {

class OracleTopP final : public TopPMasker {
 public:
  using Config = OracleTopPConfig;
  OracleTopP(const OracleTopPConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }

 private:
  absl::StatusOr<at::Tensor> Logits(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  const OracleTopPConfig config_;
};

const MaskerDescriptor& OracleTopPDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_H_
