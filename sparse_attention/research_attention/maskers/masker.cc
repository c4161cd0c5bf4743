#include "sparse_attention/research_attention/maskers/masker.h"

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {

absl::Status Masker::Prepare(const AttentionInputs& inputs, MaskerState* state) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  return Annotate(CatchTorch([&] { return PrepareState(inputs, state); }), descriptor_.name);
}

absl::StatusOr<Mask> Masker::AddMask(const AttentionInputs& inputs, const Mask& previous,
                                     MaskerState* state) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  if (previous.shape() != inputs.mask_shape() || previous.device() != inputs.q.device()) {
    return absl::InvalidArgumentError(
        absl::StrCat(descriptor_.name, ": the previous mask must have shape ",
                     ToString(inputs.mask_shape()), " on ", inputs.q.device().str(), ", got ",
                     previous.ToString(), " on ", previous.device().str()));
  }
  if (state != nullptr) state->step_metrics.clear();
  if (previous.shape().elements() == 0) return previous;
  if (previous.is_full()) {
    SA_RETURN_IF_ERROR(
        Annotate(CatchTorch([&] { return ObserveFull(inputs, state); }), descriptor_.name));
    return previous;
  }
  absl::StatusOr<Mask> mask = CatchTorch([&] { return Select(inputs, previous, state); });
  if (!mask.ok()) return Annotate(mask.status(), descriptor_.name);
  return mask;
}

}  // namespace sparse_attention
