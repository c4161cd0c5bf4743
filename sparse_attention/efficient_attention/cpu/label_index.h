// DoubleSparsity in the efficient engine: a few quantised channels of every key, see
// key_index/label_cache.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LABEL_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LABEL_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

// The channels of every query head of a layer, [query heads, r], or why there are none.
using LabelChannelsOf = std::function<absl::StatusOr<std::vector<int32_t>>(const LayerShape&)>;

class DoubleSparsitySelector final : public TopKSelector {
 public:
  DoubleSparsitySelector(const Budget& heavy_size, int64_t label_bits, LabelChannelsOf channels)
      : TopKSelector({.heavy_size = heavy_size, .queries_beside = true}),
        label_bits_(label_bits),
        channels_(std::move(channels)) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;

 private:
  const int64_t label_bits_;
  const LabelChannelsOf channels_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_LABEL_INDEX_H_
