// Which rule a sampling masker follows.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

enum class Estimator {
  // Without replacement, among visible keys that no earlier masker keeps; weights are exact
  // inclusion probabilities
  // and estimates are unbiased. Draws come from Philox.
  kUnbiased,
  // The Python hub's rule, for parity with its results: with replacement, earlier maskers ignored,
  // its weights and
  // its one-sided quantile. Draws come from LibTorch's default generator in the hub's order.
  kHub,
};

template <>
struct EnumNames<Estimator> {
  static constexpr std::pair<Estimator, const char*> kTable[] = {{Estimator::kUnbiased, "unbiased"},
                                                                 {Estimator::kHub, "hub"}};
};

// CreateMasker for a sampler: the hub's rule has no groups, and a setting that does nothing is an
// error.
template <typename M>
absl::StatusOr<std::unique_ptr<Masker>> CreateSampler(const Json& json,
                                                      const MaskerOptions& options) {
  SA_ASSIGN_OR_RETURN(const typename M::Config config, ConfigFromJson<typename M::Config>(json));
  if (config.estimator == Estimator::kHub && options.selection == Selection::kKvGroup) {
    return absl::InvalidArgumentError(
        absl::StrCat(M::Config::kName,
                     ".estimator must be \"unbiased\" where selection is \"kv_group\", got "
                     "\"hub\""));
  }
  return std::make_unique<M>(config, options);
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ESTIMATOR_H_
