// Attention of one item over what its maskers chose.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

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

// Keys that are listed before the kernel reads them: enough that its prefetches run ahead, few
// enough that the list stays in the first-level cache.
constexpr int64_t kListKeys = 4096;

// Attention over the held keys, into item.state. Called by samplers that need to know the mass that
// is certain, and by the engine behind the last masker. Does nothing at the second call.
void AttendHeld(StepItem& item);

// Adds the sampled keys, with their weights.
void AttendSampled(StepItem& item);

// What all of the above take of a thread's arena.
size_t AttendScratchBytes(const StepPlan& plan);
// What AttendSampled takes beside that for SampleWeights.
size_t SampleWeightScratchBytes(const StepPlan& plan);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ATTEND_H_
