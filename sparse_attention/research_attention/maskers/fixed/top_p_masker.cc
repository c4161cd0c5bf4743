#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// exp(logits - row maximum). Where the maximum is infinite the keys that reach it share all mass; a
// NaN counts as such a key, so that it is selected and shows in the output. 0 in a row that sees no
// key.
at::Tensor RowMass(const at::Tensor& logits) {
  at::Tensor mass = logits.nan_to_num(kInfinity, kInfinity, -kInfinity);
  const at::Tensor top = mass.amax(-1, /*keepdim=*/true);
  const at::Tensor heaviest = mass.eq(kInfinity);
  mass.sub_(top.masked_fill(top.isinf(), 0)).exp_();
  return mass.masked_fill_(top.eq(kInfinity), 0).masked_fill_(heaviest, 1);
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
  const bool total = top_p_config_.coverage == TopPCoverage::kTotal;
  // Relative to the highest key that takes part: beside a far heavier one that is held already,
  // what is left would all round to 0.
  at::Tensor mass =
      RowMass(total ? logits : logits.masked_fill(eligible.logical_not(), -kInfinity));
  at::Tensor held;  // mass that earlier maskers keep, [.., 1]
  if (total) {
    held = mass.masked_fill(previous.ToActive().logical_not_(), 0).sum(-1, true, at::kDouble);
  }
  mass.masked_fill_(eligible.logical_not(), 0);
  if (options().selection == Selection::kKvGroup) {
    const at::Tensor all =
        mass.sum(-1, true, at::kDouble).add(total ? held : at::zeros({}, mass.options()));
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
