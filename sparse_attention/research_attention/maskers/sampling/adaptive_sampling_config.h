// The config of AdaptiveSampling, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_CONFIG_H_

#include <tuple>
#include <utility>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/research_attention/maskers/sampling/estimator.h"

namespace sparse_attention {

// What stays within epsilon with probability 1 - delta.
enum class Guarantee {
  kDenominator,  // |D^ - D| <= epsilon D, the sum of exponentials
  kOutput,       // ||o^ - o|| <= epsilon ||o||, the attention output
};

template <>
struct EnumNames<Guarantee> {
  static constexpr std::pair<Guarantee, const char*> kTable[] = {
      {Guarantee::kDenominator, "denominator"}, {Guarantee::kOutput, "output"}};
};

struct AdaptiveSamplingConfig {
  static constexpr char kName[] = "adaptive_sampling";
  Budget base_rate_sampling = Budget::Fraction(0.02);
  double epsilon = 0.05;
  double delta = 0.05;
  Budget init_offset = Budget::Count(128);
  Budget local_offset = Budget::Count(128);
  Estimator estimator = Estimator::kUnbiased;
  Guarantee guarantee = Guarantee::kDenominator;

  absl::Status Validate() const {
    if (estimator == Estimator::kUnbiased || guarantee == Guarantee::kDenominator) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "guarantee must be \"denominator\" where estimator is \"hub\", got \"output\"");
  }

  static auto Fields() {
    using C = AdaptiveSamplingConfig;
    return std::tuple(
        Field{"base_rate_sampling", &C::base_rate_sampling,
              "Size of the base sample, of the keys open to sampling; at least 2; 0 switches "
              "sampling off.",
              CountOrFraction(NonNegative().Says("must be non-negative"),
                              InRightOpen(0, 1).Says("must be in [0, 1)")),
              Required()},
        Field{"epsilon", &C::epsilon, "Relative error that is promised.",
              InOpen(0, 1).Says("must be in (0, 1)"), Required()},
        Field{"delta", &C::delta, "Probability with which the promise may fail.",
              InOpen(0, 1).Says("must be in (0, 1)"), Required()},
        Field{"init_offset", &C::init_offset, "Leading keys that are not sampled.",
              CountOrFraction(NonNegative().Says("must be non-negative"),
                              InClosed(0, 1).Says("must be in [0, 1]")),
              Required()},
        Field{"local_offset", &C::local_offset, "Latest keys that are not sampled.",
              CountOrFraction(NonNegative().Says("must be non-negative"),
                              InClosed(0, 1).Says("must be in [0, 1]")),
              Required()},
        Field{
            "estimator", &C::estimator,
            "unbiased: without replacement, among keys not yet kept; hub: the Python hub's rule."},
        Field{"guarantee", &C::guarantee,
              "The promise is about the denominator or about the output; unbiased estimator only."},
        IgnoredField{"search_space"});
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_CONFIG_H_
