// AdaptiveSampling (vAttention): a uniform random sample of the keys that earlier maskers leave, as
// large for every query as a promise on its error asks for.
//
// Source: Desai et al., "vAttention: verified sparse attention", 2025. A base sample measures how
// much the keys of a row differ; from that follows the budget (sample_size.h). The base sample only
// sizes the second, independent one: were its keys counted in the estimate, the estimate would be
// biased, because the budget depends on them.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ADAPTIVE_SAMPLING_H_

#include "sparse_attention/config/budget.h"
#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling_config.h"
#include "sparse_attention/research_attention/maskers/sampling/estimator.h"

namespace sparse_attention {

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
