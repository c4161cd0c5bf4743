// AdaptiveSampling (vAttention): a uniform random sample of the keys that earlier maskers leave, as
// large for every query as a promise on its error asks for.
//
// Source: Desai et al., "vAttention: verified sparse attention", 2025. A base sample measures how
// much the keys of a row differ; from that follows the budget (sample_size.h). The base sample only
// sizes the second, independent one: were its keys counted in the estimate, the estimate would be
// biased, because the budget depends on them.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_H_

#include <tuple>
#include <utility>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/research_attention/maskers/masker.h"
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

class AdaptiveSampling final : public Masker {
 public:
  using Config = AdaptiveSamplingConfig;
  AdaptiveSampling(const AdaptiveSamplingConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  // The K rows of the base sample. Whether a promise is supported is judged by the exact logits of
  // all open keys, which this engine has at hand; that reading is a diagnosis and not counted.
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Keys [init_offset, visible keys - local_offset) are open to sampling; fractions are of the
  // visible keys. A row with no more open keys than its base sample keeps all of them; `previous`
  // where base_rate_sampling is 0. Logs sample_budget, guarantee_met_fraction and
  // guarantee_unknown_fraction of every row.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  const AdaptiveSamplingConfig config_;
};

const MaskerDescriptor& AdaptiveSamplingDescriptor();

// The Python hub's rule; see Estimator::kHub.
absl::StatusOr<Mask> AdaptiveSamplingLikeHub(const AdaptiveSamplingConfig& config,
                                             const AttentionInputs& inputs, const Mask& previous);
// Steps of that rule. The deviation of a row's values x [..., keys] among those drawn, int64 [...,
// draws], at least 1e-8; and how many keys to draw of `range`, int64, for that deviation and the
// estimated sum: (quantile * deviation * range / (epsilon * total))^2, in [1, range].
at::Tensor HubSampleDeviation(const at::Tensor& x, const at::Tensor& drawn);  // [..., 1]
at::Tensor HubBudget(const at::Tensor& deviation, const at::Tensor& total, double quantile,
                     double epsilon, int64_t range);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_H_
