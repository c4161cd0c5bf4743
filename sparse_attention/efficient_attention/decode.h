// Decode: attention of one new query a sequence over keys that the caller chose, and the exact
// choice of the k highest scores: the engine's kernels for models of one's own, without a plan, an
// index or a session.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_DECODE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_DECODE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

// Tensors on the CPU; integers are int32 or int64, and everything may be strided.
struct ChosenKeys {
  // [batch]: sequence s has the keys [0, lengths[s]) of k and v; what lies behind is not read.
  // Absent: all keys.
  std::optional<at::Tensor> lengths = std::nullopt;

  // Lists of keys, each strictly ascending, in [0, lengths[s]): one a query head, or one a KV head
  // that its query heads share. Without offsets [batch, heads, n]; with offsets [entries], the list
  // of (s, h) being entries [offsets[i], offsets[i + 1]) for i = s * heads + h, as a mask's CSR
  // form has them. Absent, with ranges absent: all keys of the sequence.
  std::optional<at::Tensor> indices = std::nullopt;
  // [batch * heads + 1], from 0, not falling, at most `entries`; entries behind the last offset are
  // room that is not read.
  std::optional<at::Tensor> offsets = std::nullopt;
  // Of the shape of `indices`, floating, > 0 and finite: a sampled key counts so many times, 1 over
  // the probability that it was sampled with. Absent: every listed key counts once.
  std::optional<at::Tensor> inverse_probabilities = std::nullopt;

  // [batch, ranges, 2]: every query head also attends to keys [begin, end), 0 <= begin <= end <=
  // lengths[s], each range beginning where the one before it ends or behind it: sinks, windows.
  // They are read in order, and no listed key may lie in one.
  std::optional<at::Tensor> ranges = std::nullopt;
};

struct DecodeResult {
  at::Tensor out;  // [batch, query heads, 1, value dim], the type of q
  at::Tensor lse;  // float32 [batch, query heads, 1], natural logarithm of the sum of exponentials
};

// softmax(softcap(scale q.k) + log(inverse probability)) v over the chosen keys, summed in float32,
// with the edge contract of docs/numerics.md: no key gives out 0 and lse -inf (or the sink), NaN in
// keys that are not chosen has no effect. Of `inputs`, q (one query), k, v, scale, softcap and
// sink_logits are used. Each chosen row of K and V is read once for all query heads of its KV head.
// K and V are copied only where the elements of a row do not lie side by side. Results do not
// depend on the number of threads or on the batch, bit for bit. Inverse probabilities in the logits
// follow Desai et al., "vAttention: verified sparse attention", 2025; parts that are merged, Dao et
// al., "Flash-Decoding", 2023.
//
// InvalidArgument names the argument, the rule and the value. Unimplemented: tensors off the CPU,
// more than one query, dims beyond 256, more than 16 query heads a KV head, bias, window, position.
absl::StatusOr<DecodeResult> Decode(const AttentionInputs& inputs, const ChosenKeys& chosen);

// The k highest of each row of scores [..., n], float32, float16 or bfloat16, as ascending int64
// indices [..., k]. Of equal scores the lowest index wins; NaN counts as +infinity, -infinity as
// the lowest finite number of float32. InvalidArgument: another type, no dimension, k not in [0,
// n]. Unimplemented: a tensor off the CPU, 2^31 scores a row.
absl::StatusOr<at::Tensor> ExactTopK(const at::Tensor& scores, int64_t k);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_DECODE_H_
