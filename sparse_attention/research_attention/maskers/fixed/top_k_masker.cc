#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {

absl::StatusOr<Mask> TopKMasker::Select(const AttentionInputs& in, const Mask& previous,
                                        MaskerState* state) const {
  const int64_t k = heavy_size_.Resolve(in.keys());
  if (in.keys() <= k) return Mask::MakeFull(previous.shape(), previous.device());
  if (k <= 0) return previous;
  SA_ASSIGN_OR_RETURN(const at::Tensor scores, Scores(in, state));
  const at::Tensor eligible = EligibleKeys(in, previous);
  if (options().selection == Selection::kQueryHead) {
    return AddKeys(previous, SelectTopK(scores, eligible, k));
  }
  const at::Tensor group_scores =
      ReduceGroup(scores, eligible, in.kv_heads(), options().group_reduce);
  const at::Tensor selected = SelectTopK(group_scores, AnyInGroup(eligible, in.kv_heads()), k);
  return AddKeys(previous, ExpandGroup(selected, in.query_heads()).logical_and(eligible));
}

}  // namespace sparse_attention
