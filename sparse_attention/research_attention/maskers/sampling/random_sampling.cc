#include "sparse_attention/research_attention/maskers/sampling/random_sampling.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "sparse_attention/mask/mask_ops.h"
#include "sparse_attention/research_attention/maskers/sampling/create_sampler.h"
#include "sparse_attention/research_attention/maskers/sampling/row_sampler.h"
#include "sparse_attention/research_attention/maskers/sampling/sampling_rows.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

absl::StatusOr<Mask> SelectLikeHub(const AttentionInputs& in, const Mask& previous, double rate) {
  const int64_t draws = static_cast<int64_t>(rate * static_cast<double>(in.keys()));
  if (draws == 0) return previous;
  const auto options = at::TensorOptions().device(in.q.device());
  const at::Tensor drawn = at::randint(
      0, in.keys(), {in.batch(), in.query_heads(), in.queries(), draws}, options.dtype(at::kLong));
  at::Tensor weights =
      at::zeros({in.batch(), in.query_heads(), in.queries(), in.keys()}, options.dtype(at::kFloat));
  weights.scatter_(3, drawn, rate);
  return Union(previous, Mask::AdoptDense(weights));
}

}  // namespace

RandomSampling::RandomSampling(const RandomSamplingConfig& config, const MaskerOptions& options)
    : Masker(RandomSamplingDescriptor(), options), config_(config) {}

absl::StatusOr<Mask> RandomSampling::Select(const AttentionInputs& in, const Mask& previous,
                                            MaskerState*) const {
  if (config_.estimator == Estimator::kHub) {
    return SelectLikeHub(in, previous, config_.sampling_rate);
  }
  const at::Tensor eligible = EligibleKeys(in, previous).to(at::kCPU).contiguous();
  at::Tensor weights = previous.ToDense().to(at::kCPU);
  const auto all_keys = [&in](int64_t) { return std::pair<int64_t, int64_t>(0, in.keys()); };
  ForEachSamplingRow(in, eligible, options().selection, all_keys, [&](const SamplingRow& row) {
    const int64_t population = static_cast<int64_t>(row.candidates.size());
    if (population == 0) return;
    const int64_t count = std::max<int64_t>(
        1, static_cast<int64_t>(config_.sampling_rate * static_cast<double>(population)));
    PhiloxStream stream = RowStream(in, row, options().seed, RandomPurpose::kRandomSampling);
    std::vector<int64_t> keys = SampleWithoutReplacement(stream, population, count);
    for (int64_t& key : keys) key = row.candidates[key];
    const float weight = static_cast<float>(count) / static_cast<float>(population);
    SetSampledWeights(row, keys, weight, eligible, weights);
  });
  return Mask::AdoptDense(weights.to(in.q.device()));
}

const MaskerDescriptor& RandomSamplingDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<RandomSampling>(
      {
          .kind = MaskerKind::kSampling,
          .summary = "A uniform random share of the keys.",
          .source = "the baseline of sampling methods",
          .when_to_use = "As a baseline, or for the spread-out rest behind a top-k masker.",
      },
      &CreateSampler<RandomSampling>);
  return descriptor;
}

}  // namespace sparse_attention
