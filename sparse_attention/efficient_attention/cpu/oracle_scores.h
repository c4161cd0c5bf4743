// Exact logits as scores: an oracle reads every key, and attention takes the logits from it.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_

#include <memory>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

// Remembers nothing: the keys themselves are the index.
class OracleScores final : public ScoredIndex {
 public:
  void Append(int64_t, const SequenceKv&, Workers&) override {}
  void Truncate(int64_t, int64_t) override {}
  int64_t bytes() const override { return 0; }
  size_t ScratchBytes() const override;
  const ItemScorer* MakeScorer(const StepItem& item) const override;
};

class OracleTopKSelector final : public TopKSelector {
 public:
  using TopKSelector::TopKSelector;
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan&) const override {
    return std::make_unique<OracleScores>();
  }
  int64_t ScoringBytes(const StepPlan& plan, int64_t keys) const override {
    return keys * plan.shape.kv_heads * plan.shape.dim * ElementBytes(plan.shape.element);
  }
  bool scores_by_logits() const override { return true; }
  KeySpan LogitsNeeded(const StepItem& item) const override { return Candidates(item); }
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ORACLE_SCORES_H_
