// TopKSelector: keeps the heavy_size keys with the highest scores, exactly, ties to the lowest
// index. A method supplies an index that scores keys; budgets, the keys that are held already,
// groups and short sequences are handled here, as by TopKMasker of the research engine.
//
// Keys are scored in blocks that stay in the first-level cache: the scores of a row are never
// written out.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_K_SELECTOR_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_K_SELECTOR_H_

#include <cstdint>
#include <memory>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

enum class ScoreType { kFloat, kUint8, kUint16 };

// Scores the keys of one item, for each set.
class ItemScorer {
 public:
  explicit ItemScorer(ScoreType type) : type_(type) {}
  // Of keys [begin, end), to scores [sets, end - begin] of the type, rows `stride` scores apart.
  virtual void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const = 0;
  ScoreType type() const { return type_; }

 protected:
  ~ItemScorer() = default;  // lives in an arena

 private:
  const ScoreType type_;
};

// An index whose keys can be scored.
class ScoredIndex : public KeyIndex {
 public:
  // Made in the item's arena, with ScratchBytes.
  virtual const ItemScorer* MakeScorer(const StepItem& item) const = 0;
};

// For each set the `k` of the entries [begin, end), keys or pages, with the highest scores, but for
// those set in excluded[set] (bitmaps, or null): their bits are set in selected[set]. The scorer's
// sets are those of the item.
void SelectTopEntries(StepItem& item, const ItemScorer& scorer, int64_t begin, int64_t end,
                      int64_t k, const uint64_t* const* excluded, uint64_t* const* selected);
size_t SelectTopEntriesScratchBytes(const StepPlan& plan, int64_t entries);

struct TopKRule {
  Budget heavy_size;
  int64_t first_candidate = 0;  // keys before it are never selected
  // False: keys that are held already take places of the budget too.
  bool spends_beside_held = true;
  // All keys are held where no more than heavy_size + this many + queries * `queries_beside` are
  // there.
  int64_t keys_beside = 0;
  bool queries_beside = false;
};

class TopKSelector : public CpuMasker {
 public:
  explicit TopKSelector(const TopKRule& rule) : rule_(rule) {}
  size_t ScratchBytes(const StepPlan& plan) const final;
  void Select(StepItem& item, const KeyIndex* index) const final;

 protected:
  // The keys that Select scores: none where all keys are held, or none is wanted.
  KeySpan Candidates(const StepItem& item) const;

 private:
  bool HoldsAll(const StepItem& item, int64_t k) const;

  const TopKRule rule_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TOP_K_SELECTOR_H_
