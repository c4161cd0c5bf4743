// TopPSelector: keeps the fewest keys that hold a share top_p of the exact attention mass, ties
// included, as OracleTopP of the research engine. The masses of one query head at a time are
// written out, since the threshold is known only once all of them are.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_P_SELECTOR_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_P_SELECTOR_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

namespace sparse_attention::cpu {

struct TopPOptions {
  double top_p = 0.9;  // in [0, 1]
  TopPRule rule = TopPRule::kGreater;
  // top_p is a share of all visible mass, of which what is held already counts; else of the mass of
  // the keys that are not held.
  bool of_total = false;
};

class TopPSelector final : public CpuMasker {
 public:
  explicit TopPSelector(const TopPOptions& options) : options_(options) {}
  int64_t ScoringBytes(const StepPlan& plan, int64_t keys) const override;
  bool scores_by_logits() const override { return true; }
  KeySpan LogitsNeeded(const StepItem& item) const override;
  size_t ScratchBytes(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex*) const override;

 private:
  bool HoldsAll(const StepItem& item) const;

  const TopPOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_P_SELECTOR_H_
