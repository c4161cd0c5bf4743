#include "sparse_attention/research_attention/maskers/fixed/sink.h"

namespace sparse_attention {

Sink::Sink(const SinkConfig& config, const MaskerOptions& options)
    : Masker(SinkDescriptor(), options), config_(config) {}

absl::StatusOr<Mask> Sink::Select(const AttentionInputs& in, const Mask& previous,
                                  MaskerState*) const {
  const int64_t size = config_.sink_size.Resolve(in.keys());
  if (in.keys() <= size) return Mask::MakeFull(previous.shape(), previous.device());
  at::Tensor weights = previous.ToDense();
  weights.narrow(3, 0, size).fill_(1);
  return Mask::AdoptDense(weights);
}

const MaskerDescriptor& SinkDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<Sink>({
      .summary = "The first keys of the sequence.",
      .source = "Xiao et al., Efficient streaming language models with attention sinks, 2023",
      .when_to_use = "In every pipeline: models park much attention on their first tokens.",
  });
  return descriptor;
}

}  // namespace sparse_attention
