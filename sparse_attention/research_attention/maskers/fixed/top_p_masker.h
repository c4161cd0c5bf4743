// TopPMasker: keeps the fewest keys that hold a share top_p of the attention mass. A method
// supplies logits; the threshold, the keys that are kept already, groups and short sequences are
// handled here.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_

#include <tuple>
#include <utility>

#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/research_attention/maskers/masker.h"

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

// Thresholds of rows of non-negative scores [..., n], n >= 1: [..., 1]. A row is sorted from the
// highest, its running sum is divided by its total, and the threshold is the value where the rule
// cuts, the last one if it never does. Shape-agnostic; float64 sums.
at::Tensor TopPThresholds(const at::Tensor& scores, double top_p, ThresholdRule rule);
// The same with a share of its own for every row, `top_p` [..., 1].
at::Tensor TopPThresholds(const at::Tensor& scores, const at::Tensor& top_p, ThresholdRule rule);

class TopPMasker : public Masker {
 public:
  TopPMasker(const MaskerDescriptor& descriptor, const MaskerOptions& options,
             const TopPConfig& config)
      : Masker(descriptor, options), top_p_config_(config) {}

 private:
  // Float32 logits [batch, query heads, queries, keys], -inf at invisible keys.
  virtual absl::StatusOr<at::Tensor> Logits(const AttentionInputs& inputs,
                                            MaskerState* state) const = 0;

  // Every eligible key whose mass reaches the threshold, ties included; none where no eligible mass
  // is left. Full where int(top_p * keys) covers all keys. In a group the normalised masses of its
  // heads are reduced.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const final;

  const TopPConfig top_p_config_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_
