#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k_config.h"

#include "absl/strings/str_cat.h"

namespace sparse_attention {

absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> LoadWeights(
    const HashAttentionTopKConfig& config) {
  const auto weights = HashAttentionWeights::Load(config.hat_weight_file);
  if (!weights.ok()) {
    return Annotate(weights.status(), absl::StrCat(config.kName, ".hat_weight_file"));
  }
  const Activation activation = (*weights)->activation();
  if (config.hat_mlp_activation.value_or(activation) != activation) {
    return RuleError(absl::StrCat(config.kName, ".hat_mlp_activation"),
                     absl::StrCat("must be that of ", config.hat_weight_file, ", \"",
                                  EnumName(activation), "\""),
                     absl::StrCat("\"", EnumName(*config.hat_mlp_activation), "\""));
  }
  return weights;
}

}  // namespace sparse_attention
