#include "sparse_attention/research_attention/maskers/selection.h"

#include <ATen/ops/zeros_like.h>

#include <limits>

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor SplitGroups(const at::Tensor& x, int64_t kv_heads) {
  return x.reshape({x.size(0), kv_heads, x.size(1) / kv_heads, x.size(2), x.size(3)});
}

}  // namespace

at::Tensor EligibleKeys(const AttentionInputs& in, const Mask& previous) {
  at::Tensor eligible = previous.ToActive().logical_not_();
  if (const auto visible = VisibleKeys(in); visible.has_value()) eligible.logical_and_(*visible);
  return eligible;
}

at::Tensor SelectTopK(const at::Tensor& scores, const at::Tensor& eligible, int64_t k) {
  const int64_t keys = scores.size(-1);
  if (k >= keys) return eligible.clone();
  if (k <= 0) return at::zeros_like(eligible);
  // Eligible entries never score -inf here, so that the k-th value tells whether there are k of
  // them.
  const double lowest = std::numeric_limits<float>::lowest();
  at::Tensor s = scores.nan_to_num(kInfinity, kInfinity, lowest);
  s.masked_fill_(eligible.logical_not(), -kInfinity);
  const at::Tensor threshold =
      std::get<0>(s.topk(k, -1, /*largest=*/true, /*sorted=*/false)).amin(-1, /*keepdim=*/true);
  at::Tensor selected = s.gt(threshold);
  const at::Tensor tied = s.eq(threshold).logical_and_(eligible);
  const at::Tensor places = selected.sum(-1, /*keepdim=*/true).neg_().add_(k);
  const at::Tensor rank = tied.cumsum(-1, at::kInt);
  return selected.logical_or_(tied.logical_and(rank.le(places)));
}

at::Tensor AddBias(const at::Tensor& scores, const AttentionInputs& in) {
  return in.bias.has_value() ? scores.add(in.bias->narrow(3, 0, in.keys())) : scores;
}

at::Tensor ReduceGroup(const at::Tensor& scores, const at::Tensor& eligible, int64_t kv_heads,
                       GroupReduce reduce) {
  const at::Tensor in_group = SplitGroups(eligible, kv_heads);
  const at::Tensor grouped = SplitGroups(scores, kv_heads);
  if (reduce == GroupReduce::kMax) {
    return grouped.masked_fill(in_group.logical_not(), -kInfinity).amax(2);
  }
  const at::Tensor sum = grouped.masked_fill(in_group.logical_not(), 0).sum(2);
  if (reduce == GroupReduce::kSum) return sum;
  return sum.div(in_group.sum(2).clamp_min(1));
}

at::Tensor AnyInGroup(const at::Tensor& flags, int64_t kv_heads) {
  return SplitGroups(flags, kv_heads).any(2);
}

at::Tensor ExpandGroup(const at::Tensor& x, int64_t heads) {
  return x.repeat_interleave(heads / x.size(1), /*dim=*/1);
}

Mask AddKeys(const Mask& previous, const at::Tensor& selected) {
  if (previous.is_empty()) return Mask::AdoptDense(selected.to(at::kFloat));
  return Mask::AdoptDense(previous.ToDense().masked_fill_(selected, 1));
}

}  // namespace sparse_attention
