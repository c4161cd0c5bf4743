// MagicPIG in the efficient engine: see research_attention/maskers/sampling/magic_pig.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_MAGIC_PIG_SAMPLER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_MAGIC_PIG_SAMPLER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

struct MagicPigOptions {
  int64_t tables = 75;
  int64_t bits = 10;  // planes of a table, in [1, 64]
  bool centred = true;
  // float32 [tables, bits, dim + 1].
  std::function<std::vector<float>(const StepPlan& plan)> planes;
};

// Buckets choose keys; the probabilities of those that are chosen are computed from their products
// with the queries when they are attended to.
class MagicPigSampler final : public CpuMasker {
 public:
  explicit MagicPigSampler(MagicPigOptions options) : options_(std::move(options)) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;
  size_t ScratchBytes(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex* index) const override;

 private:
  const MagicPigOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_MAGIC_PIG_SAMPLER_H_
