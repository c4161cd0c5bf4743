#include "sparse_attention/research_attention/maskers/fixed/quest_top_k.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "sparse_attention/key_index/quest_pages.h"
#include "sparse_attention/research_attention/maskers/index_state.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

constexpr int64_t kLeastPages = 3;

using State = IndexState<QuestPages>;

const QuestPages& UpdatePages(const AttentionInputs& in, const QuestTopKConfig& config,
                              State& state) {
  return state.Update(
      in, [&] { return QuestPages(in.k, config.page_size, config.label_bits); },
      [&](QuestPages& pages, int64_t unchanged) { pages.Extend(in.k, unchanged); });
}

// Bool [batch, query heads, queries, pages]: pages with a key that the query sees.
at::Tensor VisiblePages(const AttentionInputs& in, int64_t pages, int64_t page_size) {
  const std::vector<int64_t> shape = {in.batch(), in.query_heads(), in.queries(), pages};
  const auto visible = VisibleKeys(in);
  if (!visible.has_value()) return at::ones(shape, in.q.options().dtype(at::kBool));
  const at::Tensor padded =
      at::constant_pad_nd(*visible, {0, pages * page_size - in.keys()}, false);
  return padded.unflatten(-1, {pages, page_size}).any(-1).expand(shape);
}

}  // namespace

QuestTopK::QuestTopK(const QuestTopKConfig& config, const MaskerOptions& options)
    : Masker(QuestTopKDescriptor(), options), config_(config) {}

std::unique_ptr<MaskerState> QuestTopK::NewState() const { return std::make_unique<State>(); }

absl::Status QuestTopK::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  UpdatePages(in, config_, static_cast<State&>(*state));
  return absl::OkStatus();
}

absl::StatusOr<Mask> QuestTopK::Select(const AttentionInputs& in, const Mask& previous,
                                       MaskerState* state) const {
  const int64_t heavy = config_.heavy_size.Resolve(in.keys());
  if (in.keys() <= std::max<int64_t>(1, heavy)) {
    return Mask::MakeFull(previous.shape(), previous.device());
  }
  const at::Tensor scores = WithState<State>(
      state, [&](State& own) { return UpdatePages(in, config_, own).Scores(in.q); });
  const int64_t pages = scores.size(3);
  const int64_t kept = std::min(pages, std::max(kLeastPages, heavy / config_.page_size));
  const at::Tensor visible = VisiblePages(in, pages, config_.page_size);
  at::Tensor selected;
  if (options().selection == Selection::kQueryHead) {
    selected = SelectTopK(scores, visible, kept);
  } else {
    const at::Tensor of_group = ReduceGroup(scores, visible, in.kv_heads(), options().group_reduce);
    selected = ExpandGroup(SelectTopK(of_group, AnyInGroup(visible, in.kv_heads()), kept),
                           in.query_heads());
  }
  const at::Tensor keys = selected.repeat_interleave(config_.page_size, 3).narrow(3, 0, in.keys());
  return AddKeys(previous, keys.logical_and(EligibleKeys(in, previous)));
}

int64_t QuestTopK::IndexBytes(const AttentionInputs& in) const {
  const int64_t bounds =
      2 * in.batch() * in.kv_heads() * ((in.keys() + config_.page_size - 1) / config_.page_size);
  if (config_.label_bits == 16) {
    return bounds * in.dim() * static_cast<int64_t>(in.k.element_size());
  }
  constexpr int64_t kRangeBytes = 2 * sizeof(float);
  return bounds * ((in.dim() * config_.label_bits + 7) / 8 + kRangeBytes);
}

const MaskerDescriptor& QuestTopKDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<QuestTopK>({
      .summary = "The pages whose upper bound of the logit is highest.",
      .source = "Tang et al., Quest: query-aware sparsity for efficient long-context LLM "
                "inference, 2024",
      .when_to_use = "Without any training or calibration, and where whole pages are read as fast "
                     "as paged caches allow. Small pages select better and cost more.",
      .memory = "2 · dim / page_size elements",
      .reads = "the bounds of every page: 1 / page_size of K and V",
      .scoring_reads = ScoringReads::kIndex,
      .keys_apart = false,
  });
  return descriptor;
}

}  // namespace sparse_attention
