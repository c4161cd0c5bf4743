#include "sparse_attention/research_attention/maskers/fixed/oracle_top_p.h"

namespace sparse_attention {

OracleTopP::OracleTopP(const OracleTopPConfig& config, const MaskerOptions& options)
    : TopPMasker(OracleTopPDescriptor(), options, config), config_(config) {}

absl::StatusOr<at::Tensor> OracleTopP::Logits(const AttentionInputs& in, MaskerState*) const {
  return ComputeLogits(in);
}

const MaskerDescriptor& OracleTopPDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<OracleTopP>({
      .summary = "The fewest keys that hold a share of the exact attention mass.",
      .source = "upper bound of methods with an adaptive budget; Lin et al., Twilight, 2025",
      .when_to_use = "To know how many keys each query needs; it reads every key.",
      .reads = "every key",
      .scoring_reads = ScoringReads::kAllKeys,
  });
  return descriptor;
}

}  // namespace sparse_attention
