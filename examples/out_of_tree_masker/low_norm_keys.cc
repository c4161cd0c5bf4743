#include "examples/out_of_tree_masker/low_norm_keys.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>

namespace my_project {
namespace {

// The norms of the keys seen so far, float32 [batch, KV heads, keys].
struct KeyNorms final : sa::MaskerState {
  at::Tensor norms;
};

}  // namespace

LowNormKeys::LowNormKeys(const Config& config, const sa::MaskerOptions& options)
    : TopKMasker(LowNormKeysDescriptor(), options, config.heavy_size), config_(config) {}

std::unique_ptr<sa::MaskerState> LowNormKeys::NewState() const {
  return std::make_unique<KeyNorms>();
}

int64_t LowNormKeys::IndexBytes(const sa::AttentionInputs& in) const {
  return in.batch() * in.kv_heads() * in.keys() * int64_t{sizeof(float)};
}

absl::StatusOr<at::Tensor> LowNormKeys::Scores(const sa::AttentionInputs& in,
                                               sa::MaskerState* state) const {
  KeyNorms fresh;
  at::Tensor& norms = (state != nullptr ? static_cast<KeyNorms*>(state) : &fresh)->norms;
  const int64_t known = norms.defined() ? norms.size(2) : 0;
  if (known < in.keys()) {
    const at::Tensor added =
        at::linalg_vector_norm(in.k.slice(2, known), 2, /*dim=*/-1, /*keepdim=*/false, at::kFloat);
    norms = known == 0 ? added : at::cat({norms, added}, 2);
  }
  const at::Tensor scores = config_.longest ? norms : norms.neg();
  // One row for all queries of a head: [batch, KV heads, keys] -> [batch, heads, queries, keys].
  return scores.slice(2, 0, in.keys())
      .repeat_interleave(in.group_size(), /*dim=*/1)
      .unsqueeze(2)
      .expand({-1, -1, in.queries(), -1});
}

const sa::MaskerDescriptor& LowNormKeysDescriptor() {
  static const sa::MaskerDescriptor descriptor = sa::MakeDescriptor<LowNormKeys>({
      .summary = "The keys of the smallest norm.",
      .source = "Devoto et al., A simple and effective L2 norm-based strategy for KV cache "
                "compression, 2024",
      .when_to_use = "Where the choice must not depend on the query.",
      .memory = "4 bytes a key and KV head",
      .reads = "4 bytes a key and KV head",
      .scoring_reads = sa::ScoringReads::kIndex,
  });
  return descriptor;
}

}  // namespace my_project
