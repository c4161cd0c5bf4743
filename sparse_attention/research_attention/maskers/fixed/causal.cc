#include "sparse_attention/research_attention/maskers/fixed/causal.h"

#include <ATen/ops/arange.h>

namespace sparse_attention {

Causal::Causal(const CausalConfig&, const MaskerOptions& options)
    : Masker(CausalDescriptor(), options) {}

absl::StatusOr<Mask> Causal::Select(const AttentionInputs& in, const Mask& previous,
                                    MaskerState*) const {
  const auto options = at::TensorOptions().dtype(at::kLong).device(in.q.device());
  const int64_t first = in.query_position(0);
  const at::Tensor positions = at::arange(first, first + in.queries(), options).unsqueeze(1);
  const at::Tensor future = at::arange(in.keys(), options).unsqueeze(0).gt(positions);
  // Whether nothing is selected, not how that is stored, decides.
  at::Tensor weights = previous.Normalized().is_empty()
                           ? Mask::MakeFull(previous.shape(), previous.device()).ToDense()
                           : previous.ToDense();
  weights.masked_fill_(future, 0);
  return Mask::AdoptDense(weights);
}

const MaskerDescriptor& CausalDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<Causal>({
      .summary = "Only keys up to the query's own position.",
      .source = "Vaswani et al., Attention is all you need, 2017",
      .when_to_use = "Where the host does not hide the future itself, or as the dense baseline.",
      .only_adds = false,
  });
  return descriptor;
}

}  // namespace sparse_attention
