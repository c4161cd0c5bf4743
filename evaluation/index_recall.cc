#include "evaluation/index_recall.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/host_attention.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/config/budget.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

// Of all rows, the mean share of `truth` that is in `kept`.
double MeanShare(const at::Tensor& kept, const at::Tensor& truth) {
  const at::Tensor found = kept.logical_and(truth).sum(-1).to(at::kDouble);
  return found.div(truth.sum(-1)).mean().item<double>();
}

// Adds one layer's step to each selector's result.
absl::Status MeasureStep(const AttentionInputs& inputs, const std::vector<KeySelector>& selectors,
                         double top, std::vector<IndexRecall>* results) {
  const Mask none = Mask::MakeEmpty(inputs.mask_shape(), inputs.q.device());
  const at::Tensor visible = EligibleKeys(inputs, none);
  const int64_t k = std::max<int64_t>(1, Budget::Fraction(top).Resolve(inputs.keys()));
  const at::Tensor truth = SelectTopK(ComputeLogits(inputs), visible, k);
  for (size_t i = 0; i < selectors.size(); ++i) {
    SA_ASSIGN_OR_RETURN(const at::Tensor selected, selectors[i](inputs));
    const at::Tensor kept = selected.logical_and(visible);
    IndexRecall& result = (*results)[i];
    result.recall_of_layer.push_back(MeanShare(kept, truth));
    result.recall += result.recall_of_layer.back();
    result.kept += kept.sum().item<double>() / visible.sum().item<double>();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeySelector> SelectorFromJson(const Json& json) {
  SA_ASSIGN_OR_RETURN(std::unique_ptr<Masker> made, MaskerFromJson(json, MaskerOptions()));
  const std::shared_ptr<const Masker> masker = std::move(made);
  return [masker](const AttentionInputs& inputs) -> absl::StatusOr<at::Tensor> {
    const std::unique_ptr<MaskerState> state = masker->NewState();
    const Mask none = Mask::MakeEmpty(inputs.mask_shape(), inputs.q.device());
    SA_ASSIGN_OR_RETURN(const Mask mask, masker->AddMask(inputs, none, state.get()));
    return mask.ToActive();
  };
}

absl::StatusOr<std::vector<IndexRecall>> MeasureIndexRecall(
    const DecoderModel& model, absl::Span<const int32_t> tokens,
    const std::vector<KeySelector>& selectors, const RecallOptions& options) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (options.queries < 1 || options.queries >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("queries must be in [1, ", count, "), the tokens, got ", options.queries));
  }
  if (!(options.top > 0 && options.top <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top must be in (0, 1], got ", options.top));
  }
  SA_ASSIGN_OR_RETURN(const auto dense, HostAttention::Create());
  AttentionSession session;
  std::vector<IndexRecall> results(selectors.size());
  const AttentionFunction measured =
      [&](const AttentionInputs& inputs) -> absl::StatusOr<at::Tensor> {
    SA_RETURN_IF_ERROR(
        CatchTorch([&] { return MeasureStep(inputs, selectors, options.top, &results); }));
    return dense->Attend(inputs, &session);
  };
  SA_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(count));
  const int64_t before = count - options.queries;
  SA_RETURN_IF_ERROR(model
                         .Forward(tokens.subspan(0, before), &cache, dense->Bind(&session),
                                  {.logits = 0, .tokens_per_pass = 4096})
                         .status());
  SA_RETURN_IF_ERROR(
      model.Forward(tokens.subspan(before), &cache, measured, {.logits = 0}).status());
  for (IndexRecall& result : results) {
    result.recall /= static_cast<double>(model.config().num_layers);
    result.kept /= static_cast<double>(model.config().num_layers);
  }
  return results;
}

}  // namespace sparse_attention
