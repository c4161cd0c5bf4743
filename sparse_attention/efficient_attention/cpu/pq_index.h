// PQCache in the efficient engine: codes of keys and look-ups of products, see
// key_index/pq_codebook.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PQ_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PQ_INDEX_H_

#include <cstdint>
#include <memory>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

struct PqIndexOptions {
  int64_t subvectors = 2;
  int64_t bits = 6;
  int64_t iterations = 10;
  int64_t offset = 0;  // leading keys that are not quantised
  bool inner_product = false;
  uint64_t seed = 42;
};

class PqCacheSelector final : public TopKSelector {
 public:
  PqCacheSelector(const Budget& heavy_size, const PqIndexOptions& options)
      : TopKSelector({.heavy_size = heavy_size,
                      .first_candidate = options.offset,
                      .keys_beside = options.offset + (int64_t{1} << options.bits),
                      .queries_beside = true}),
        options_(options) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;

 private:
  const PqIndexOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PQ_INDEX_H_
