#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/research_attention/maskers/sampling/base_sample.h"
#include "sparse_attention/research_attention/maskers/sampling/create_sampler.h"
#include "sparse_attention/research_attention/maskers/sampling/row_sampler.h"
#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"
#include "sparse_attention/research_attention/maskers/sampling/sampling_rows.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

// Reads one step's rows on the host.
class StepReader {
 public:
  StepReader(const AttentionInputs& in, const Mask& previous, const AdaptiveSamplingConfig& config)
      : in_(in), config_(config) {
    const at::Tensor logits = ComputeLogits(in);
    const at::Tensor top = logits.amax(-1, /*keepdim=*/true);
    // Of a key that is no number too: nobody may select it.
    const at::Tensor safe_top = at::where(top.isfinite(), top, 0.0);
    at::Tensor certain = logits.sub(safe_top).exp_();
    const at::Tensor weights = previous.ToDense();
    certain = at::where(weights.gt(0), certain.div(weights), 0.0);
    certain_sum_ = certain.sum(-1, false, at::kDouble).to(at::kCPU).contiguous();
    if (config.guarantee == Guarantee::kOutput) {
      // Not sum certain_j v_j over all keys: NaN in a value that nobody selects must not count.
      AttentionInputs without_sinks = in;
      without_sinks.sink_logits.reset();
      const absl::StatusOr<AttentionState> state = MaskedAttention(without_sinks, previous);
      SA_CHECK_OK(state);
      certain_values_ =
          state->out.to(at::kCPU).mul(certain_sum_.to(at::kFloat).unsqueeze(-1)).contiguous();
    }
    logits_ = logits.to(at::kCPU).contiguous();
    top_ = safe_top.to(at::kCPU).contiguous();
    eligible_ = EligibleKeys(in, previous).to(at::kCPU).contiguous();
  }

  const at::Tensor& eligible() const { return eligible_; }

  // The statistics of query head `head` in `row`, from the base sample `keys`. A key that the head
  // holds already contributes 0.
  RowStatistics Read(const SamplingRow& row, int64_t head, const std::vector<int64_t>& keys) const {
    const int64_t index = (row.batch * in_.query_heads() + head) * in_.queries() + row.query;
    std::vector<double> mass(keys.size());
    for (size_t s = 0; s < keys.size(); ++s) mass[s] = Weight(index, keys[s]);
    const int64_t count = static_cast<int64_t>(keys.size());
    const BaseSample sample = {
        MomentsOf(mass.data(), count), static_cast<int64_t>(row.candidates.size()),
        certain_sum_.const_data_ptr<double>()[index], HeaviestWeight(row, index)};
    if (config_.guarantee == Guarantee::kDenominator) {
      return DenominatorStatistics(sample, config_.epsilon);
    }
    const int64_t dim = in_.value_dim();
    const at::Tensor positions = at::tensor(keys, at::kLong).to(in_.v.device());
    const at::Tensor values = in_.v.select(0, row.batch)
                                  .select(0, head / in_.group_size())
                                  .index_select(0, positions)
                                  .to(at::kCPU, at::kDouble);
    std::vector<double> scratch(OutputScratchDoubles(count, dim));
    return OutputStatistics(sample,
                            {mass.data(), values.const_data_ptr<double>(),
                             certain_values_.const_data_ptr<float>() + index * dim, dim},
                            config_.epsilon, scratch.data());
  }

 private:
  double HeaviestWeight(const SamplingRow& row, int64_t index) const {
    const bool* flags = eligible_.const_data_ptr<bool>() + index * in_.keys();
    const float* logits = logits_.const_data_ptr<float>() + index * in_.keys();
    float heaviest = -std::numeric_limits<float>::infinity();
    for (int64_t key : row.candidates) {
      if (flags[key]) heaviest = std::max(heaviest, logits[key]);
    }
    return std::exp(static_cast<double>(heaviest) -
                    static_cast<double>(top_.const_data_ptr<float>()[index]));
  }

  double Weight(int64_t index, int64_t key) const {
    const int64_t at = index * in_.keys() + key;
    if (!eligible_.const_data_ptr<bool>()[at]) return 0;
    return std::exp(static_cast<double>(logits_.const_data_ptr<float>()[at]) -
                    static_cast<double>(top_.const_data_ptr<float>()[index]));
  }

  const AttentionInputs& in_;
  const AdaptiveSamplingConfig& config_;
  at::Tensor logits_;          // float32 [batch, heads, queries, keys]
  at::Tensor top_;             // float32 [batch, heads, queries, 1]
  at::Tensor certain_sum_;     // float64 [batch, heads, queries]
  at::Tensor certain_values_;  // float32 [batch, heads, queries, value dim]
  at::Tensor eligible_;        // bool [batch, heads, queries, keys]
};

std::vector<int64_t> DrawKeys(PhiloxStream stream, const SamplingRow& row, int64_t count) {
  std::vector<int64_t> keys =
      SampleWithoutReplacement(stream, static_cast<int64_t>(row.candidates.size()), count);
  for (int64_t& key : keys) key = row.candidates[key];
  return keys;
}

}  // namespace

AdaptiveSampling::AdaptiveSampling(const AdaptiveSamplingConfig& config,
                                   const MaskerOptions& options)
    : Masker(AdaptiveSamplingDescriptor(), options), config_(config) {}

int64_t AdaptiveSampling::IndexBytes(const AttentionInputs& in) const {
  const int64_t sets =
      options().selection == Selection::kKvGroup ? in.kv_heads() : in.query_heads();
  const int64_t rows =
      std::min(sets * config_.base_rate_sampling.Resolve(in.keys()), in.kv_heads() * in.keys());
  return in.batch() * rows * in.dim() * static_cast<int64_t>(in.k.element_size());
}

absl::StatusOr<Mask> AdaptiveSampling::Select(const AttentionInputs& in, const Mask& previous,
                                              MaskerState* state) const {
  const Budget& base = config_.base_rate_sampling;
  if (base == Budget::Count(0) || base == Budget::Fraction(0)) return previous;
  if (config_.estimator == Estimator::kHub) return AdaptiveSamplingLikeHub(config_, in, previous);

  const auto range = [&](int64_t query) {
    const int64_t visible =
        in.causal ? std::clamp<int64_t>(in.query_position(query) + 1, 0, in.keys()) : in.keys();
    return std::pair<int64_t, int64_t>(config_.init_offset.Resolve(visible),
                                       visible - config_.local_offset.Resolve(visible));
  };
  const StepReader reader(in, previous, config_);
  const auto host = at::TensorOptions().dtype(at::kFloat);
  const std::vector<int64_t> rows = {in.batch(), in.query_heads(), in.queries()};
  at::Tensor weights = previous.ToDense().to(at::kCPU);
  at::Tensor budgets = at::full(rows, 0, host);
  at::Tensor met = at::full(rows, 1, host);

  ForEachSamplingRow(
      in, reader.eligible(), options().selection, range, [&](const SamplingRow& row) {
        const int64_t population = static_cast<int64_t>(row.candidates.size());
        int64_t budget = population;
        const int64_t base_count = std::max<int64_t>(2, base.Resolve(population));
        if (population > base_count) {
          const std::vector<int64_t> base_keys =
              DrawKeys(RowStream(in, row, options().seed, RandomPurpose::kAdaptiveBaseSample), row,
                       base_count);
          budget = 0;
          for (int64_t head = row.first_head; head < row.first_head + row.heads; ++head) {
            const RowStatistics statistics = reader.Read(row, head, base_keys);
            const SampleSize size = ComputeSampleSize(
                statistics.spread,
                {population, statistics.allowed_error, config_.delta, statistics.heaviest});
            budget = std::max(budget, size.budget);
            met.select(0, row.batch).select(0, head).select(0, row.query).fill_(size.guarantee_met);
          }
        }
        const std::vector<int64_t> keys = DrawKeys(
            RowStream(in, row, options().seed, RandomPurpose::kAdaptiveSample), row, budget);
        SetSampledWeights(row, keys, static_cast<float>(budget) / static_cast<float>(population),
                          reader.eligible(), weights);
        budgets.select(0, row.batch)
            .narrow(0, row.first_head, row.heads)
            .select(1, row.query)
            .fill_(static_cast<double>(budget));
      });
  if (state != nullptr) {
    state->step_metrics = {{&kSampleBudget, budgets},
                           {&kGuaranteeMetFraction, met},
                           {&kGuaranteeUnknownFraction, met.neg().add_(1)}};
  }
  return Mask::AdoptDense(weights.to(in.q.device()));
}

const MaskerDescriptor& AdaptiveSamplingDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<AdaptiveSampling>(
      {
          .kind = MaskerKind::kSampling,
          .summary = "A uniform sample as large as a promise on the error asks for (vAttention).",
          .source = "Desai et al., vAttention: verified sparse attention, 2025",
          .when_to_use = "Behind any top-k masker, where the error must be known: the sample grows "
                         "until the relative error is at most `epsilon` with probability "
                         "1 - `delta`.",
          .reads = "the base sample's keys",
          .scoring_reads = ScoringReads::kIndex,
      },
      &CreateSampler<AdaptiveSampling>);
  return descriptor;
}

}  // namespace sparse_attention
