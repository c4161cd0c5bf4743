// Attention of one item over what its maskers chose, in parts.
//
// A part is what lies in a number of neighbouring positions. The first adds to the item's running
// state; each other one has a state of its own, and those are merged into it in order. Where parts
// begin depends on the item alone, so that results are the same, bit for bit, whether one thread
// computes all parts or several threads share them.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_

#include <algorithm>
#include <cstdint>

#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"
#include "sparse_attention/efficient_attention/cpu/part_keys.h"

namespace sparse_attention::cpu {

// A span of keys, cut.
struct Parts {
  KeySpan keys;
  int64_t part_keys = kPartKeys;

  int64_t first() const { return keys.begin / part_keys; }
  int64_t count() const {
    return keys.empty() ? 0 : (keys.end + part_keys - 1) / part_keys - first();
  }
};
// What of `keys` lies in part `part`, counted from the first, of `parts`.
inline KeySpan InPart(const KeySpan& keys, const Parts& parts, int64_t part) {
  const int64_t begin = (parts.first() + part) * parts.part_keys;
  return {std::max(keys.begin, begin), std::min(keys.end, begin + parts.part_keys)};
}

// The query rows of one KV head, `queries` of each query head of the group, side by side in scratch
// memory, and their running state, which is empty at first.
struct RowBlock {
  RowBlock(const StepPlan& plan, const StepInputs& inputs, int64_t sequence, int64_t kv_head,
           int64_t first_query, int64_t queries, Arena& arena);

  int64_t query_of(int row) const { return first_query + row % queries; }
  int head_of(int row) const { return static_cast<int>(row / queries); }
  // Of [sequences, query heads, queries].
  int64_t row_index(const StepPlan& plan, const StepInputs& inputs, int row) const;

  // Writes the outputs of those query heads of the group whose bit is set in `heads`.
  void Finish(const StepPlan& plan, const StepInputs& inputs, const StepOutputs& outputs,
              uint32_t heads) const;

  int64_t sequence, kv_head, first_query, queries;
  AttentionProblem problem;
  RunningState state;
};

// A running state of `rows` rows in an arena, not initialised.
RunningState TakeState(Arena& arena, int64_t rows, int64_t value_dim);
size_t StateBytes(int64_t rows, int64_t value_dim);

// Keys that an item attends to in one go.
struct AttendedKeys {
  Parts parts;
  KeySpan before, after;                  // ranges, around
  KeySpan open;                           // what bitmaps are about
  const uint64_t* bits[kMostGroup] = {};  // by set, none outside `open`; null: nothing of it
  const SampledKeys* sample = nullptr;    // whose weights they have
  bool in_order = false;  // all rows of `open` are read, and what is not wanted ignored
};

// The held keys, and the sampled ones; how they are read is decided and reported.
AttendedKeys HeldToAttend(StepItem& item);
AttendedKeys SampledToAttend(StepItem& item);

// Adds a part of `keys` to `state`. `scratch` is the thread's.
void AttendPart(StepItem& item, const AttendedKeys& keys, int64_t part, const RunningState& state,
                Arena& scratch);

// What AttendPart takes of a thread's arena.
size_t AttendScratchBytes(const StepPlan& plan, bool logits_known);
size_t RowBlockBytes(const StepPlan& plan);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_
