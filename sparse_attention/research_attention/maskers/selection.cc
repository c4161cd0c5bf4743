#include "sparse_attention/research_attention/maskers/selection.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <vector>

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor SplitGroups(const at::Tensor& x, int64_t kv_heads) {
  return x.reshape({x.size(0), kv_heads, x.size(1) / kv_heads, x.size(2), x.size(3)});
}

at::Tensor SelectOnDevice(const at::Tensor& scores, const at::Tensor& eligible, int64_t k) {
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

// Unsigned integers in the order of the scores; NaN counts as infinity, -infinity as the lowest
// finite number. 0 is free for entries that are not eligible.
inline uint32_t OrderOf(float score) {
  constexpr float kMost = std::numeric_limits<float>::infinity();
  if (score != score) score = kMost;
  score = std::max(score, std::numeric_limits<float>::lowest()) + 0.f;  // -0 is 0
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// One row. A histogram of the upper bits finds the place of the k-th largest, the entries of its
// bin are then looked at alone.
void SelectRow(const float* scores, const bool* eligible, int64_t n, int64_t k, bool* selected) {
  constexpr int kShift = 20;
  std::vector<uint32_t> order(n);
  std::vector<int32_t> bins(size_t{1} << (32 - kShift), 0);
  int64_t left = 0;
  for (int64_t j = 0; j < n; ++j) {
    order[j] = eligible[j] ? OrderOf(scores[j]) : 0;
    left += eligible[j];
    ++bins[order[j] >> kShift];
  }
  bins[0] = 0;  // no score is that low
  if (left <= k) {
    std::copy(eligible, eligible + n, selected);
    return;
  }
  int64_t places = k;  // among the entries of the bin
  int64_t bin = static_cast<int64_t>(bins.size()) - 1;
  while (bins[bin] < places) places -= bins[bin--];
  std::vector<uint32_t> of_bin;
  of_bin.reserve(bins[bin]);
  for (int64_t j = 0; j < n; ++j) {
    if (order[j] >> kShift == bin) of_bin.push_back(order[j]);
  }
  std::nth_element(of_bin.begin(), of_bin.begin() + (places - 1), of_bin.end(), std::greater<>());
  const uint32_t threshold = of_bin[places - 1];
  for (uint32_t value : of_bin) places -= value > threshold;
  for (int64_t j = 0; j < n; ++j) {
    selected[j] = order[j] > threshold || (order[j] == threshold && places-- > 0);
  }
}

at::Tensor SelectOnHost(const at::Tensor& scores, const at::Tensor& eligible, int64_t k) {
  const int64_t n = scores.size(-1);
  const at::Tensor dense_scores = scores.contiguous(), dense_eligible = eligible.contiguous();
  at::Tensor selected = at::empty(eligible.sizes(), eligible.options());
  const float* const score_data = dense_scores.const_data_ptr<float>();
  const bool* const eligible_data = dense_eligible.const_data_ptr<bool>();
  bool* const out = selected.data_ptr<bool>();
  at::parallel_for(0, scores.numel() / n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      SelectRow(score_data + row * n, eligible_data + row * n, n, k, out + row * n);
    }
  });
  return selected;
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
  if (!scores.device().is_cpu()) return SelectOnDevice(scores, eligible, k);
  return SelectOnHost(scores, eligible, k);
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
