#include "sparse_attention/research_attention/maskers/fixed/snap_kv.h"

#include <ATen/ops/avg_pool1d.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

struct State : MaskerState {
  at::Tensor kept;  // bool [batch, query heads, 1, keys of the prompt]; undefined before it ends
  void Rewind() override { kept = at::Tensor(); }
};

// The attention that the last `window` queries pay to every key, summed over them and averaged over
// neighbours: float32 [batch, query heads, 1, keys].
at::Tensor WindowVotes(const AttentionInputs& in, int64_t window, int64_t kernel) {
  const at::Tensor logits = ComputeLogits(in).narrow(2, in.queries() - window, window);
  // A row that sees no key has no attention to pay.
  const at::Tensor attention = logits.softmax(-1).nan_to_num_(0);
  const at::Tensor votes = attention.sum(2).flatten(0, 1).unsqueeze(1);
  const at::Tensor pooled = at::avg_pool1d(votes, {kernel}, {1}, {kernel / 2});
  return pooled.view({in.batch(), in.query_heads(), 1, in.keys()});
}

at::Tensor ChoosePromptKeys(const AttentionInputs& in, const SnapKvConfig& config,
                            const MaskerOptions& options) {
  const int64_t window = std::min({config.window_size, in.queries(), in.keys()});
  const int64_t before = in.keys() - window;
  const at::Tensor votes = WindowVotes(in, window, config.kernel_size);
  at::Tensor candidates = at::ones(votes.sizes(), votes.options().dtype(at::kBool));
  candidates.narrow(3, before, window).fill_(false);
  const int64_t budget = config.heavy_size.Resolve(in.keys());
  at::Tensor kept;
  if (options.selection == Selection::kQueryHead) {
    kept = SelectTopK(votes, candidates, budget);
  } else {
    const at::Tensor of_group = ReduceGroup(votes, candidates, in.kv_heads(), options.group_reduce);
    kept = ExpandGroup(SelectTopK(of_group, AnyInGroup(candidates, in.kv_heads()), budget),
                       in.query_heads());
  }
  kept.narrow(3, before, window).fill_(true);
  return kept;
}

// The prompt keys that a step keeps, chosen by it if it is the end of a prompt.
const at::Tensor& KeptPromptKeys(const AttentionInputs& in, const SnapKvConfig& config,
                                 const MaskerOptions& options, State& own) {
  const bool continues = own.kept.defined() && in.queries() == 1 &&
                         own.kept.size(0) == in.batch() && own.kept.size(1) == in.query_heads() &&
                         own.kept.size(3) < in.keys() && own.kept.device() == in.q.device();
  if (!continues) own.kept = ChoosePromptKeys(in, config, options);
  return own.kept;
}

}  // namespace

SnapKv::SnapKv(const SnapKvConfig& config, const MaskerOptions& options)
    : Masker(SnapKvDescriptor(), options), config_(config) {}

std::unique_ptr<MaskerState> SnapKv::NewState() const { return std::make_unique<State>(); }

absl::StatusOr<Mask> SnapKv::Select(const AttentionInputs& in, const Mask& previous,
                                    MaskerState* state) const {
  State passing;
  State& own = state != nullptr ? static_cast<State&>(*state) : passing;
  const at::Tensor& kept = KeptPromptKeys(in, config_, options(), own);
  at::Tensor eligible = EligibleKeys(in, previous);
  eligible.narrow(3, 0, kept.size(3)).logical_and_(kept);
  return AddKeys(previous, eligible);
}

absl::Status SnapKv::ObserveFull(const AttentionInputs& in, MaskerState* state) const {
  if (state != nullptr) KeptPromptKeys(in, config_, options(), static_cast<State&>(*state));
  return absl::OkStatus();
}

const MaskerDescriptor& SnapKvDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<SnapKv>({
      .summary = "The prompt's keys that its last queries attend to, and all later keys.",
      .source = "Li et al., SnapKV: LLM knows what you are looking for before generation, 2024",
      .when_to_use =
          "For one question at the end of a prompt: no index and no scoring while "
          "generating, and keys that were not chosen could be dropped. Wrong where later "
          "questions need other keys.",
      .memory = "a bit, a query head",
      .scoring_reads = ScoringReads::kIndex,
      .queries_apart = false,
  });
  return descriptor;
}

}  // namespace sparse_attention
