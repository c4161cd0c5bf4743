// How the registry makes samplers.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_CREATE_SAMPLER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_CREATE_SAMPLER_H_

#include <memory>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/sampling/estimator.h"

namespace sparse_attention {

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

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_CREATE_SAMPLER_H_
