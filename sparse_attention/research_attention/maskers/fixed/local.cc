#include "sparse_attention/research_attention/maskers/fixed/local.h"

#include <ATen/ops/arange.h>

namespace sparse_attention {

Local::Local(const LocalConfig& config, const MaskerOptions& options)
    : Masker(LocalDescriptor(), options), config_(config) {}

absl::StatusOr<Mask> Local::Select(const AttentionInputs& in, const Mask& previous,
                                   MaskerState*) const {
  const int64_t window = config_.window_size.Resolve(in.keys());
  if (in.keys() <= window + in.queries()) {
    return Mask::MakeFull(previous.shape(), previous.device());
  }
  const auto options = at::TensorOptions().dtype(at::kLong).device(in.q.device());
  const int64_t first = in.query_position(0);
  const at::Tensor positions = at::arange(first, first + in.queries(), options).unsqueeze(1);
  const at::Tensor keys = at::arange(in.keys(), options).unsqueeze(0);
  at::Tensor weights = previous.ToDense();
  weights.masked_fill_(keys.gt(positions.sub(window)), 1);
  weights.masked_fill_(keys.gt(positions), 0);
  return Mask::AdoptDense(weights);
}

const MaskerDescriptor& LocalDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<Local>({
      .summary = "A window of the latest keys.",
      .source = "Beltagy et al., Longformer: the long-document transformer, 2020",
      .when_to_use = "In every pipeline: the latest tokens matter to nearly every head.",
      .only_adds = false,
  });
  return descriptor;
}

}  // namespace sparse_attention
