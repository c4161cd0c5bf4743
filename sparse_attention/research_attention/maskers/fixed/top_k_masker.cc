#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

#include <algorithm>

#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {

absl::StatusOr<Mask> TopKMasker::Select(const AttentionInputs& in, const Mask& previous,
                                        MaskerState* state) const {
  const int64_t k = heavy_size_.Resolve(in.keys());
  if (KeepsAll(in, k)) return Mask::MakeFull(previous.shape(), previous.device());
  if (k <= 0) return previous;
  SA_ASSIGN_OR_RETURN(const at::Tensor scores, Scores(in, state));
  const at::Tensor eligible = EligibleKeys(in, previous);
  at::Tensor candidates = eligible;
  if (!SpendsBesideHeld()) {
    candidates = EligibleKeys(in, Mask::MakeEmpty(previous.shape(), previous.device()));
  }
  if (const int64_t first = std::min(FirstCandidate(), in.keys()); first > 0) {
    candidates = candidates.clone();
    candidates.narrow(3, 0, first).fill_(false);
  }
  if (options().selection == Selection::kQueryHead) {
    return AddKeys(previous, SelectTopK(scores, candidates, k).logical_and_(eligible));
  }
  const at::Tensor group_scores =
      ReduceGroup(scores, candidates, in.kv_heads(), options().group_reduce);
  const at::Tensor selected = SelectTopK(group_scores, AnyInGroup(candidates, in.kv_heads()), k);
  return AddKeys(previous, ExpandGroup(selected, in.query_heads()).logical_and(eligible));
}

}  // namespace sparse_attention
