// RandomSampling: keeps a uniform random share of the keys, independently for every query.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_H_

#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/sampling/random_sampling_config.h"

namespace sparse_attention {

class RandomSampling final : public Masker {
 public:
  using Config = RandomSamplingConfig;
  RandomSampling(const RandomSamplingConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }

 private:
  // Unbiased: of N visible keys that are not kept yet, max(1, int(rate * N)) with weight (that
  // number) / N. Hub: int(rate * keys) draws over all keys with weight `rate`; `previous` where
  // that is 0.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  const RandomSamplingConfig config_;
};

const MaskerDescriptor& RandomSamplingDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_H_
