// Scores that are sums of table look-ups by code: PQCache and Socket.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

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

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LOOKUP_SCORER_H_
