// Attention over keys that a caller chose, with the inverse of the probability that each was chosen
// with.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_WEIGHTED_LIST_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_WEIGHTED_LIST_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"

namespace sparse_attention::cpu {

// A KeyList with weights in place of biases: a key of weight w counts w times.
struct WeightedList {
  const uint32_t* keys = nullptr;  // [count], ascending (for speed)
  int64_t count = 0;
  const uint16_t* members = nullptr;             // [count], as in KeyList; null: every row
  const float* inverse_probabilities = nullptr;  // [rows, count], > 0 and finite where the row is a
                                                 // member, else of no meaning; null: all 1
  int64_t stride = 0;                            // floats from row to row; 0: one row for all
};

// Adds the list to `state`. Allocates nothing; takes 32 KB of stack beside the kernel's.
void AttendWeightedList(const AttentionKernels& kernels, const AttentionProblem& problem,
                        const WeightedList& list, const RunningState& state);

// The keys of one query row, ascending, none twice.
struct RowList {
  const int64_t* keys = nullptr;                 // [count]
  const float* inverse_probabilities = nullptr;  // [count], > 0 and finite; null: all 1
  int64_t count = 0;

  // What of it lies in [begin, end).
  RowList Within(int64_t begin, int64_t end) const;
};

// Scratch memory of AttendRowLists.
struct RowListScratch {
  static constexpr int64_t kPiece = 2048;
  uint32_t keys[kPiece];
  uint16_t members[kPiece];
  float weights[kMaxRows * kPiece];
};

// Adds the keys of every row's own list, lists[problem.rows], to `state`. A key of several lists is
// read once.
void AttendRowLists(const AttentionKernels& kernels, const AttentionProblem& problem,
                    const RowList* lists, RowListScratch& scratch, const RunningState& state);

// Adds the keys of `list` to every row.
void AttendSharedList(const AttentionKernels& kernels, const AttentionProblem& problem,
                      const RowList& list, RowListScratch& scratch, const RunningState& state);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_WEIGHTED_LIST_H_
