#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"

namespace sparse_attention {

OracleTopK::OracleTopK(const OracleTopKConfig& config, const MaskerOptions& options)
    : TopKMasker(OracleTopKDescriptor(), options, config.heavy_size), config_(config) {}

absl::StatusOr<at::Tensor> OracleTopK::Scores(const AttentionInputs& in, MaskerState*) const {
  return ComputeLogits(in);
}

const MaskerDescriptor& OracleTopKDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<OracleTopK>({
      .summary = "The keys with the highest exact logits.",
      .source = "upper bound of top-k methods; Gupta et al., Memory-efficient transformers via "
                "top-k attention, 2021",
      .when_to_use = "To know what top-k can reach at best; it reads every key and saves only V.",
      .reads = "every key",
      .scoring_reads = ScoringReads::kAllKeys,
  });
  return descriptor;
}

}  // namespace sparse_attention
