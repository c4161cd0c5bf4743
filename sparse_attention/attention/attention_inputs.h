// AttentionInputs: the queries, keys and values of one layer, and everything that shapes their
// logits.
//
// Layout: q [batch, query heads, queries, dim], k [batch, KV heads, keys, dim], v [batch, KV heads,
// keys, value dim]. Query heads are a multiple of KV heads; query head h reads KV head h / (query
// heads / KV heads). K and V are never repeated. Key j has the absolute position j.
//
// The logit of query i and key j is
//   x = scale * (q_i . k_j);  x = softcap * tanh(x / softcap) if softcap is given;  x += bias[i, j]
//   if bias is given
// and the key is visible to the query unless the bias forbids it (-inf, or half the lowest finite
// value of its type and below, as the additive masks of model libraries use), `causal` hides it (j
// > position of i) or the sliding window does (j <= position of i - window).
#ifndef SPARSE_ATTENTION_ATTENTION_ATTENTION_INPUTS_H_
#define SPARSE_ATTENTION_ATTENTION_ATTENTION_INPUTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "sparse_attention/base/status.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// Holds what several maskers and the attention of one step would otherwise each compute: filled at
// the first use, valid only for the inputs that it was made for. Not for use from several threads
// at once.
struct LogitsMemo {
  at::Tensor logits;  // see ComputeLogits
};

struct AttentionInputs {
  at::Tensor q;  // [batch, query heads, queries, dim] float32, float16 or bfloat16
  at::Tensor k;  // [batch, KV heads, keys, dim], the type of q
  at::Tensor v;  // [batch, KV heads, keys, value dim], the type of q

  // [batch or 1, query heads or 1, queries, >= keys], additive; float16, bfloat16, float32, float64
  std::optional<at::Tensor> bias = std::nullopt;
  std::optional<double> scale = std::nullopt;    // default 1 / sqrt(dim); not 0
  std::optional<double> softcap = std::nullopt;  // > 0
  // >= 1 keys, the query's own position included
  std::optional<int64_t> sliding_window = std::nullopt;
  // [query heads], learned; they add mass to the denominator only
  std::optional<at::Tensor> sink_logits = std::nullopt;
  bool causal = false;

  int64_t layer = 0;
  // Absolute position of the first query; absent: the queries are the last of the keys. All
  // positions are in [0, 2^32).
  std::optional<int64_t> first_query_position = std::nullopt;

  std::shared_ptr<LogitsMemo> memo = nullptr;

  int64_t batch() const { return q.size(0); }
  int64_t query_heads() const { return q.size(1); }
  int64_t queries() const { return q.size(2); }
  int64_t dim() const { return q.size(3); }
  int64_t kv_heads() const { return k.size(1); }
  int64_t keys() const { return k.size(2); }
  int64_t value_dim() const { return v.size(3); }
  int64_t group_size() const { return query_heads() / kv_heads(); }
  int64_t query_position(int64_t query) const {
    return first_query_position.value_or(keys() - queries()) + query;
  }
  double effective_scale() const;
  MaskShape mask_shape() const { return {batch(), query_heads(), queries(), keys()}; }
};

// Every rule above. InvalidArgument names the field, the rule and the value.
absl::Status ValidateInputs(const AttentionInputs& inputs);

// Bool, broadcastable to [batch, query heads, queries, keys]: which keys each query sees. Absent:
// all of them.
std::optional<at::Tensor> VisibleKeys(const AttentionInputs& inputs);

// The logits, float32 [batch, query heads, queries, keys], -inf where a key is not visible.
// Products are summed in float32 whatever the input type; K is converted in pieces, never whole.
// Uses and fills `inputs.memo`. The caller must not change the result.
at::Tensor ComputeLogits(const AttentionInputs& inputs);

// Query heads that share a KV head as rows of one matrix: [batch, query heads, queries, x] to
// [batch, KV heads, heads of a group * queries, x], and back.
at::Tensor GroupRows(const at::Tensor& x, int64_t kv_heads);
at::Tensor UngroupRows(const at::Tensor& x, int64_t query_heads);

// probabilities [batch, query heads, queries, keys] float32 times V, summed over the keys, in
// float32: [batch, query heads, queries, value dim]. V is converted in pieces, never whole.
at::Tensor WeightedValues(const AttentionInputs& inputs, const at::Tensor& probabilities);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_ATTENTION_INPUTS_H_
