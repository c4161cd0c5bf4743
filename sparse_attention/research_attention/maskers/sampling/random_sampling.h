// RandomSampling: keeps a uniform random share of the keys, independently for every query.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_H_

#include <tuple>

#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/sampling/estimator.h"

namespace sparse_attention {

struct RandomSamplingConfig {
  static constexpr char kName[] = "random_sampling";
  double sampling_rate = 0.1;
  Estimator estimator = Estimator::kUnbiased;
  static auto Fields() {
    return std::tuple(
        Field{"sampling_rate", &RandomSamplingConfig::sampling_rate,
              "Share of the keys beside those that earlier maskers keep.",
              InLeftOpen(0, 1).Says("must be in range (0, 1]"), Required()},
        Field{
            "estimator", &RandomSamplingConfig::estimator,
            "unbiased: without replacement, among keys not yet kept; hub: the Python hub's rule."},
        IgnoredField{"search_space"});
  }
};

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
