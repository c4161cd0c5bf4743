// ItemRun: one chain of maskers, or dense attention, for one item, from queries to outputs.
//
// It goes on by itself until something is to be computed for each of its parts (attend.h), which
// one thread does one after the other, or several threads share:
//
//   alone     while (run.Advance()) run.RunParts();
//   shared    while (run.Advance()) { for each part, on any thread: run.RunPart(part, its arena);
//                                     run.MergeParts(); }
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ITEM_RUN_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ITEM_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/attend.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

using MaskerChain = std::vector<std::shared_ptr<const CpuMasker>>;

// Sees what maskers chose, for tests and for those who inspect a method.
using StepObserver = std::function<void(const StepItem& item)>;

// What all items of a step have in common.
struct StepCall {
  const StepPlan& plan;
  const StepInputs& inputs;
  const StepOutputs& outputs;
  RowReport* reports;           // [sequences, query heads, queries], or null
  const StepObserver* observe;  // or null
};

struct ItemPlace {
  int64_t sequence, kv_head, first_query, queries;
};

class ItemRun {
 public:
  // For the query heads of the group that are set in `heads`. `chain` null: dense; else
  // place.queries is 1, and `indexes` has one a masker. Lives in, and takes from, `arena`, which
  // nobody else takes from meanwhile but RunPart.
  ItemRun(const StepCall& call, const ItemPlace& place, uint32_t heads, const MaskerChain* chain,
          std::span<const std::unique_ptr<KeyIndex>> indexes, Arena& arena);

  // To the next thing that is to be computed in parts: true; or to the end, outputs written.
  bool Advance();

  int64_t parts() const { return parts_.count(); }
  // `part` in [0, parts()).
  void RunPart(int64_t part, Arena& scratch);
  void MergeParts();
  void RunParts();

  // What it takes of an arena, beside maskers and AttendScratchBytes.
  static size_t ScratchBytes(const StepPlan& plan);

 private:
  enum class Wanted { kNothing, kLogits, kRanges, kHeld, kSampled };

  bool Want(Wanted wanted, const Parts& parts);
  bool WantLogits(const KeySpan& keys);
  void TakeDenseRanges();
  void ComputePart(int64_t part, const RunningState& state, Arena& scratch);
  RunningState StateOf(int64_t part) const;
  void Finish();

  const StepCall& call_;
  const uint32_t heads_;
  const MaskerChain* const chain_;
  const std::span<const std::unique_ptr<KeyIndex>> indexes_;
  RowBlock block_;
  StepItem item_;
  size_t next_ = 0;  // masker
  bool attended_ = false, attended_sample_ = false;
  Wanted wanted_ = Wanted::kNothing;
  Parts parts_;
  AttendedKeys keys_;
  int64_t row_begin_[kMaxRows], row_end_[kMaxRows];  // of dense rows
  float* states_;                                    // of parts but the first
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ITEM_RUN_H_
