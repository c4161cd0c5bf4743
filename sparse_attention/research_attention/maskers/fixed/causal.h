// Causal: keeps each query from keys after its own position.
//
// The Python hub's CausalMasker returns its input and leaves causality to the additive mask; here
// it does what its name says.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_H_

#include "sparse_attention/research_attention/maskers/fixed/causal_config.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

class Causal final : public Masker {
 public:
  using Config = CausalConfig;
  Causal(const CausalConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(CausalConfig()); }

 private:
  // An empty `previous` becomes all keys up to each query's position; otherwise later keys are
  // cleared.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
};

const MaskerDescriptor& CausalDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_H_
