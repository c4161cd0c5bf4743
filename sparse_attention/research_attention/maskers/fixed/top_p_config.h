// What the configs of top-p maskers share, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_CONFIG_H_

#include <tuple>
#include <utility>

#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {

// Where the running sum of sorted mass is cut. The two differ only when a partial sum equals top_p
// exactly.
enum class ThresholdRule {
  kGreater,  // at the first sum > top_p: the Python hub's code
  kAtLeast,  // at the first sum >= top_p
};

// What top_p is a share of.
enum class TopPCoverage {
  kResidual,  // the mass of keys that no earlier masker keeps
  kTotal,     // the mass of all visible keys; what is kept already counts
};

template <>
struct EnumNames<ThresholdRule> {
  static constexpr std::pair<ThresholdRule, const char*> kTable[] = {
      {ThresholdRule::kGreater, "greater"}, {ThresholdRule::kAtLeast, "at_least"}};
};
template <>
struct EnumNames<TopPCoverage> {
  static constexpr std::pair<TopPCoverage, const char*> kTable[] = {
      {TopPCoverage::kResidual, "residual"}, {TopPCoverage::kTotal, "total"}};
};

// The fields that every top-p config starts with.
struct TopPConfig {
  double top_p = 0.9;
  ThresholdRule threshold_rule = ThresholdRule::kGreater;
  TopPCoverage coverage = TopPCoverage::kResidual;
};

template <typename Config>
auto TopPFields() {
  return std::tuple(
      Field{"top_p", &Config::top_p, "Share of the attention mass to keep.",
            InClosed(0, 1).Says("must be in range [0, 1]"), FloatOnly(), Required()},
      Field{"threshold_rule", &Config::threshold_rule,
            "Cut where the running sum of mass is greater than top_p, or at least top_p."},
      Field{"coverage", &Config::coverage,
            "Share of the mass that earlier maskers leave (residual), or of all mass (total)."},
      IgnoredField{"search_space"});
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_CONFIG_H_
