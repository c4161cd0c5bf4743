// Sink: keeps the first keys of the sequence, which attract attention whatever they say.
// Source: Xiao et al., "Efficient streaming language models with attention sinks", 2023.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_H_

#include <tuple>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

struct SinkConfig {
  static constexpr char kName[] = "sink";
  Budget sink_size = Budget::Count(4);
  static auto Fields() {
    return std::tuple(Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.",
                            PositiveBudget(), Required()},
                      IgnoredField{"search_space"});
  }
};

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
