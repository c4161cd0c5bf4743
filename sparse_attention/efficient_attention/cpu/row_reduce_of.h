// How scoring kernels reduce the query heads of a group for a plan.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

inline RowReduce ReduceOf(const StepPlan& plan) {
  if (!plan.by_group) return RowReduce::kNone;
  switch (plan.reduce) {
    case StepPlan::Reduce::kMax:
      return RowReduce::kMax;
    case StepPlan::Reduce::kMean:
      return RowReduce::kMean;
    case StepPlan::Reduce::kSum:
      return RowReduce::kSum;
  }
  return RowReduce::kNone;
}

// Where every query head has an index of its own: score(row, begin, end, out) one by one, reduced
// as a kernel reduces rows that share one. Of whole numbers a mean is the sum, which orders alike.
template <typename T, typename Score>
void ScoreRowsApart(RowReduce reduce, int rows, int64_t begin, int64_t end, T* out, int64_t stride,
                    const Score& score) {
  constexpr int64_t kPieceKeys = 512;
  for (int row = 0; row < rows; ++row) {
    if (reduce == RowReduce::kNone || row == 0) {
      score(row, begin, end, out + row * stride);
      continue;
    }
    T of_row[kPieceKeys];
    for (int64_t first = begin; first < end; first += kPieceKeys) {
      const int64_t last = std::min(end, first + kPieceKeys);
      score(row, first, last, of_row);
      T* const total = out + (first - begin);
      for (int64_t j = 0; j < last - first; ++j) {
        const T x = of_row[j];
        if (reduce == RowReduce::kMax) {
          total[j] = x > total[j] || x != x ? x : total[j];
        } else {
          total[j] = static_cast<T>(total[j] + x);
        }
      }
    }
  }
  if constexpr (std::is_floating_point_v<T>) {
    if (reduce != RowReduce::kMean) return;
    for (int64_t j = 0; j < end - begin; ++j) out[j] /= static_cast<T>(rows);
  }
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_
