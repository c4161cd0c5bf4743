// Exact logits as scores: an oracle reads every key.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_

#include <memory>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

// Remembers nothing: the keys themselves are the index.
class OracleScores final : public ScoredIndex {
 public:
  explicit OracleScores(const StepPlan& plan)
      : key_bytes_(plan.shape.kv_heads * plan.shape.dim * ElementBytes(plan.shape.element)),
        group_(plan.shape.group()),
        by_group_(plan.by_group) {}
  void Append(int64_t, const SequenceKv&, Workers&) override {}
  void Truncate(int64_t, int64_t) override {}
  int64_t bytes() const override { return 0; }
  size_t ScratchBytes() const override;
  int64_t ScoringBytes(int64_t keys) const override { return keys * key_bytes_; }
  const ItemScorer* MakeScorer(const StepItem& item) const override;

 private:
  const int64_t key_bytes_;
  const int group_;
  const bool by_group_;
};

class OracleTopKSelector final : public TopKSelector {
 public:
  using TopKSelector::TopKSelector;
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override {
    return std::make_unique<OracleScores>(plan);
  }
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_
