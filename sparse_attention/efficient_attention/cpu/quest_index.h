// Quest in the efficient engine: bounds of pages, of which the best are selected whole. See
// key_index/quest_pages.h and research_attention/maskers/fixed/quest_top_k.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_QUEST_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_QUEST_INDEX_H_

#include <memory>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

class QuestSelector final : public CpuMasker {
 public:
  QuestSelector(const Budget& heavy_size, int64_t page_size, int64_t label_bits)
      : heavy_size_(heavy_size), page_size_(page_size), label_bits_(label_bits) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;
  size_t ScratchBytes(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex* index) const override;

 private:
  const Budget heavy_size_;
  const int64_t page_size_;
  const int64_t label_bits_;  // 16: bounds are not quantised
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_QUEST_INDEX_H_
