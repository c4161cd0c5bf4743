// Operations on masks: union, inverse weighting, and what a mask costs to read.
#ifndef SPARSE_ATTENTION_MASK_MASK_OPS_H_
#define SPARSE_ATTENTION_MASK_MASK_OPS_H_

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "sparse_attention/base/status.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// clamp(a + b, 0, 1), the Python hub's merge. Commutative; an Empty mask is its identity, a Full
// one absorbs. Two samplers with weights p1 and p2 on one key give p1 + p2. InvalidArgument: shapes
// or devices differ.
absl::StatusOr<Mask> Union(const Mask& a, const Mask& b);

// x [batch, heads, queries, keys] divided by the weights where a key is active, 0 elsewhere;
// float32. A value outside the mask has no effect, NaN included. InvalidArgument: x has another
// shape or device.
absl::StatusOr<at::Tensor> ApplyInverseWeights(const Mask& mask, const at::Tensor& x);

// The mask of each query head taken from the mask that `choice[head]` names. The caller guarantees
// at least one mask, one shape and device for all, and one choice in range for each head.
absl::StatusOr<Mask> SelectHeads(const std::vector<Mask>& masks, const std::vector<int>& choice);

// What reading the selected keys costs. Shares are over visible (batch, head, query, key) entries;
// rows that see no key are left out and counted.
struct MaskCost {
  double density = 0;  // active entries over visible ones
  // For each query: distinct (batch, KV head, key) rows that any query head of a group reads, over
  // those that any of them sees.
  double kv_rows_fraction = 0;
  int64_t active = 0;  // active visible entries
  int64_t visible = 0;
  int64_t empty_rows = 0;  // rows (batch, head, query) without a visible key
};

// `kv_heads` divides the mask's heads. `visible` is bool, broadcastable to the mask's shape, or
// absent for all. InvalidArgument: one of the two is not so.
absl::StatusOr<MaskCost> MeasureMask(const Mask& mask, int64_t kv_heads,
                                     const std::optional<at::Tensor>& visible);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_MASK_MASK_OPS_H_
