// The lightning indexer in the efficient engine: short vectors of tokens, one selection for all
// heads; see key_index/indexer_keys.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_INDEXER_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_INDEXER_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

// The matrices of one layer, rows one behind the other; `owner` keeps their memory.
struct IndexerMatrices {
  int64_t heads = 0;             // of the indexer
  int64_t width = 0;             // of its vectors
  const float* query = nullptr;  // [heads, query heads * dim, width]
  const float* key = nullptr;    // [KV heads * dim, width]
  const float* gate = nullptr;   // [query heads * dim, heads]
  std::shared_ptr<const void> owner;
};

// The matrices for a layer of a shape, or why there are none.
using IndexerMatricesOf = std::function<absl::StatusOr<IndexerMatrices>(const LayerShape& shape)>;

class LightningIndexerSelector final : public TopKSelector {
 public:
  LightningIndexerSelector(const Budget& heavy_size, IndexerMatricesOf matrices)
      : TopKSelector({.heavy_size = heavy_size}), matrices_(std::move(matrices)) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;

 private:
  const IndexerMatricesOf matrices_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_INDEXER_INDEX_H_
