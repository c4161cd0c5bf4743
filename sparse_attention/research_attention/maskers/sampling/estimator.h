// Which rule a sampling masker follows. LibTorch-free.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_

#include <utility>

#include "sparse_attention/config/enum_names.h"

namespace sparse_attention {

enum class Estimator {
  // Without replacement, among visible keys that no earlier masker keeps; weights are exact
  // inclusion probabilities and estimates are unbiased. Draws come from Philox.
  kUnbiased,
  // The Python hub's rule, for parity with its results: with replacement, earlier maskers ignored,
  // its weights and its one-sided quantile. Draws come from LibTorch's default generator in the
  // hub's order.
  kHub,
};

template <>
struct EnumNames<Estimator> {
  static constexpr std::pair<Estimator, const char*> kTable[] = {{Estimator::kUnbiased, "unbiased"},
                                                                 {Estimator::kHub, "hub"}};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_
