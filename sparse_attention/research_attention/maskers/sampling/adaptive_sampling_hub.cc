// The Python hub's adaptive sampling, number for number, for parity with its golden vectors.
#include <ATen/ops/arange.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/math/distributions/normal.hpp>

#include "sparse_attention/mask/mask_ops.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"

namespace sparse_attention {
namespace {

// The hub divides by the weight plus this.
constexpr double kWeightEpsilon = 1e-6;

at::Tensor InverseWeightedSum(const at::Tensor& x, const at::Tensor& weights) {
  return at::where(weights.ne(0), x.div(weights.add(kWeightEpsilon)), 0.0).sum(-1, true);
}

}  // namespace

at::Tensor HubSampleDeviation(const at::Tensor& x, const at::Tensor& drawn) {
  return x.gather(-1, drawn).std(-1, /*unbiased=*/true, /*keepdim=*/true).clamp_min(1e-8);
}

at::Tensor HubBudget(const at::Tensor& deviation, const at::Tensor& total, double quantile,
                     double epsilon, int64_t range) {
  // Squared, a quantile below 0 would ask for more draws the more failures are allowed.
  const double above = std::max(0.0, quantile) * static_cast<double>(range);
  const at::Tensor error = total.mul(epsilon).clamp_min(1e-8);
  return deviation.mul(above).div(error).square().clamp(1, range).to(at::kLong);
}

absl::StatusOr<Mask> AdaptiveSamplingLikeHub(const AdaptiveSamplingConfig& config,
                                             const AttentionInputs& in, const Mask& previous) {
  const int64_t keys = in.keys();
  const int64_t begin = config.init_offset.Resolve(keys);
  const int64_t end = keys - config.local_offset.Resolve(keys);
  const int64_t range = end - begin;
  if (range < 2) return Mask::MakeFull(previous.shape(), previous.device());
  const int64_t base = std::max<int64_t>(2, config.base_rate_sampling.Resolve(range));

  const at::Tensor logits = ComputeLogits(in);
  const at::Tensor exponentials = logits.sub(logits.amax(-1, true)).exp_();
  // An empty mask counts as dense here, so that the estimate is about twice the truth: the hub's
  // rule.
  const at::Tensor certain = previous.is_empty()
                                 ? exponentials.sum(-1, true)
                                 : InverseWeightedSum(exponentials, previous.ToDense());

  const auto longs = at::TensorOptions().dtype(at::kLong).device(in.q.device());
  const std::vector<int64_t> rows = {in.batch(), in.query_heads(), in.queries()};
  const at::Tensor base_keys = at::randint(begin, end, {rows[0], rows[1], rows[2], base}, longs);
  const at::Tensor deviation = HubSampleDeviation(exponentials, base_keys);
  at::Tensor base_weights = at::zeros(exponentials.sizes(), exponentials.options());
  base_weights.scatter_(3, base_keys, static_cast<double>(base) / static_cast<double>(range));
  const at::Tensor total = certain.add(InverseWeightedSum(exponentials, base_weights));

  const double quantile = boost::math::quantile(boost::math::normal(), 1 - config.delta);
  const at::Tensor budget =
      HubBudget(deviation, total, quantile, config.epsilon, range).clamp_min(std::min(base, range));
  const at::Tensor probability = budget.to(at::kFloat).div(static_cast<double>(range));

  const int64_t draws = budget.sum().item<int64_t>();
  const at::Tensor sampled = at::randint(begin, end, {draws}, longs);
  const at::Tensor row_of_draw =
      at::arange(budget.numel(), longs).repeat_interleave(budget.flatten(), 0, draws);
  at::Tensor weights = at::zeros(exponentials.sizes(), exponentials.options());
  weights.view({-1}).index_put_({row_of_draw.mul(keys).add(sampled)},
                                probability.flatten().index_select(0, row_of_draw));
  return Union(previous, Mask::AdoptDense(weights));
}

}  // namespace sparse_attention
