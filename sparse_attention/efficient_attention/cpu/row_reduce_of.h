// How scoring kernels reduce the query heads of a group for a plan.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_

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

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ROW_REDUCE_OF_H_
