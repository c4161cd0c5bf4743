// The config of RandomSampling, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_CONFIG_H_

#include <tuple>

#include "sparse_attention/config/field.h"
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

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_RANDOM_SAMPLING_CONFIG_H_
