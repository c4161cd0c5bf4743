#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

// exp(logits - row maximum) over the keys in `keep`, 0 elsewhere.
at::Tensor Mass(const at::Tensor& logits, const at::Tensor& keep, const at::Tensor& top) {
  return logits.sub(top).exp_().masked_fill_(keep.logical_not(), 0);
}

}  // namespace

at::Tensor TopPThresholds(const at::Tensor& scores, const at::Tensor& top_p, ThresholdRule rule) {
  const at::Tensor sorted = std::get<0>(scores.sort(-1, /*descending=*/true));
  const at::Tensor sums = sorted.cumsum(-1, at::kDouble);
  const at::Tensor share = sums.div(sums.narrow(-1, sums.size(-1) - 1, 1));
  const at::Tensor before = rule == ThresholdRule::kGreater ? share.le(top_p) : share.lt(top_p);
  const at::Tensor position = before.sum(-1, /*keepdim=*/true).clamp_max_(scores.size(-1) - 1);
  return sorted.gather(-1, position);
}

at::Tensor TopPThresholds(const at::Tensor& scores, double top_p, ThresholdRule rule) {
  return TopPThresholds(scores, at::full({}, top_p, scores.options().dtype(at::kDouble)), rule);
}

absl::StatusOr<Mask> TopPMasker::Select(const AttentionInputs& in, const Mask& previous,
                                        MaskerState* state) const {
  const double top_p = top_p_config_.top_p;
  if (in.keys() <= static_cast<int64_t>(top_p * static_cast<double>(in.keys()))) {
    return Mask::MakeFull(previous.shape(), previous.device());
  }
  SA_ASSIGN_OR_RETURN(const at::Tensor logits, Logits(in, state));
  at::Tensor eligible = EligibleKeys(in, previous);
  const at::Tensor row_top = logits.amax(-1, /*keepdim=*/true);
  // A row that sees no key has no finite maximum and selects nothing.
  const at::Tensor top = at::where(row_top.isinf(), 0.0, row_top);
  at::Tensor mass = Mass(logits, eligible, top);
  const bool total = top_p_config_.coverage == TopPCoverage::kTotal;
  at::Tensor held;  // mass that earlier maskers keep, [.., 1]
  if (total) held = Mass(logits, previous.ToActive(), top).sum(-1, true, at::kDouble);
  if (options().selection == Selection::kKvGroup) {
    const at::Tensor all = mass.sum(-1, true, at::kDouble).add(total ? held : at::zeros_like(top));
    const at::Tensor share = mass.div(at::where(all.eq(0), 1.0, all)).to(at::kFloat);
    mass = ReduceGroup(share, eligible, in.kv_heads(), options().group_reduce);
    eligible = AnyInGroup(eligible, in.kv_heads());
    mass.masked_fill_(eligible.logical_not(), 0);
    if (total) {
      held = ReduceGroup(held.div(at::where(all.eq(0), 1.0, all)), at::ones_like(held, at::kBool),
                         in.kv_heads(), options().group_reduce);
    }
  }
  const at::Tensor open = mass.sum(-1, true, at::kDouble);
  at::Tensor wanted = at::full({}, top_p, open.options());
  at::Tensor selected = eligible;
  if (total) {
    // The share of the open mass that is still missing.
    wanted = open.add(held).mul_(top_p).sub_(held).div_(at::where(open.eq(0), 1.0, open));
    selected = selected.logical_and(wanted.gt(0));
  }
  const at::Tensor threshold =
      TopPThresholds(mass, wanted.clamp(0, 1), top_p_config_.threshold_rule);
  selected = selected.logical_and(mass.ge(threshold)).logical_and(open.gt(0));
  if (options().selection == Selection::kKvGroup) {
    selected = ExpandGroup(selected, in.query_heads()).logical_and(EligibleKeys(in, previous));
  }
  return AddKeys(previous, selected);
}

}  // namespace sparse_attention
