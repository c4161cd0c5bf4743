// Scores that are sums of table look-ups by code, and what fills the tables: PQCache and Socket.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_

#include <cstdint>
#include <new>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {

class LookupScorer final : public ItemScorer {
 public:
  LookupScorer(const LookupKernels& kernels, const LookupProblem& problem)
      : ItemScorer(ScoreType::kFloat), kernels_(kernels), problem_(problem) {}
  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    kernels_.score(problem_, begin, end, static_cast<float*>(scores), stride);
  }

 private:
  const LookupKernels kernels_;
  const LookupProblem problem_;
};

// A scorer in the item's arena, with LookupScratchBytes. Sums over the heads of a group are taken
// of their tables, which costs as much as a single head.
inline const ItemScorer* MakeLookupScorer(const LookupKernels& kernels, LookupProblem problem,
                                          Arena& arena) {
  if (problem.reduce == RowReduce::kSum || problem.reduce == RowReduce::kMean) {
    float* const merged = arena.Take<float>(int64_t{problem.tables} << problem.bits);
    kernels.merge(problem, merged);
    problem.table = merged;
    problem.rows = 1;
    problem.reduce = RowReduce::kNone;
  }
  return new (arena.Take<LookupScorer>(1)) LookupScorer(kernels, problem);
}
// The query of a row as floats, [dim].
inline void WidenQuery(const StepItem& item, int row, float* q) {
  const LayerShape& shape = item.plan.shape;
  RowProductKernelsFor(item.plan.isa)
      .widen(static_cast<const char*>(item.problem.q) + row * item.problem.q_stride, shape.element,
             shape.dim, q);
}

inline size_t LookupScratchBytes(int64_t tables, int64_t bits) {
  return Arena::Bytes<LookupScorer>(1) + Arena::Bytes<float>(tables << bits);
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_
