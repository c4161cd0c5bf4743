// The bit signatures of HashAttention in the efficient engine: see key_index/bit_signature.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SIGNATURE_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SIGNATURE_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"
#include "sparse_attention/key_index/mlp.h"

namespace sparse_attention::cpu {

// The MLPs of one layer; `owner` keeps their memory.
struct SignatureMlps {
  std::vector<MlpLinear> query;  // of every query head
  std::vector<MlpLinear> key;    // of `key_heads` sets, each for equally many query heads
  int64_t key_heads = 0;         // KV heads, or query heads where they are not shared
  RowActivation activation = RowActivation::kSilu;
  std::shared_ptr<const void> owner;
};

// The MLPs for a layer of a shape, or why there are none.
using SignatureMlpsOf = std::function<absl::StatusOr<SignatureMlps>(const LayerShape& shape)>;

class HashAttentionSelector final : public TopKSelector {
 public:
  HashAttentionSelector(const TopKRule& rule, SignatureMlpsOf mlps)
      : TopKSelector(rule), mlps_(std::move(mlps)) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;

 private:
  const SignatureMlpsOf mlps_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SIGNATURE_INDEX_H_
