// Sink: keeps the first keys of the sequence, which attract attention whatever they say.
// Source: Xiao et al., "Efficient streaming language models with attention sinks", 2023.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_H_

#include "sparse_attention/research_attention/maskers/fixed/sink_config.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

class Sink final : public Masker {
 public:
  using Config = SinkConfig;
  Sink(const SinkConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }

 private:
  // Full where the sink covers all keys.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  const SinkConfig config_;
};

const MaskerDescriptor& SinkDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_H_
