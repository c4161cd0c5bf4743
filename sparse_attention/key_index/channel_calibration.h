// ChannelCalibration: finds the channels of q and k that decide the logits of a model, from the
// queries and keys of a text, for Double Sparsity.
//
//   ChannelCalibration calibration;
//   for each layer and step: SA_RETURN_IF_ERROR(calibration.Add(inputs));
//   SA_ASSIGN_OR_RETURN(const ChannelFile file, calibration.Channels());
//
// The importance of channel c to a query head is
//   q_proj   mean |q_c| over the head's queries
//   k_proj   mean |k_c| over the keys of its KV head
//   qk_proj  their product: the mean of |q_c k_c| over all pairs of a query and a key
// Sums are float64. Rows (one head of one token) with a NaN or an infinity are left out and
// counted.
//
// Source: Yang et al., "Post-training sparse attention with Double Sparsity", 2024.
#ifndef SPARSE_ATTENTION_KEY_INDEX_CHANNEL_CALIBRATION_H_
#define SPARSE_ATTENTION_KEY_INDEX_CHANNEL_CALIBRATION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/channel_file.h"

namespace sparse_attention {

class ChannelCalibration {
 public:
  // `average_group`: the query heads that share a KV head get one list, by the mean of their
  // queries, so that an index of reduced keys is kept once for a KV head.
  explicit ChannelCalibration(bool average_group = true) : average_group_(average_group) {}

  // Counts the queries and the keys at their positions: those of a text that is read in pieces
  // count once. InvalidArgument: ValidateInputs fails, the positions are not among the keys, or
  // heads or channels differ from those seen of this layer.
  absl::Status Add(const AttentionInputs& inputs);

  // Float64 [query heads, dim] on the host. NotFound: nothing was added for the layer;
  // FailedPrecondition: a head has no finite row.
  absl::StatusOr<at::Tensor> Importance(int64_t layer, ChannelSelection selection) const;

  // For every layer and selection the channels by falling importance, of equal ones the lowest
  // first. FailedPrecondition as Importance.
  absl::StatusOr<ChannelFile> Channels() const;

  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t skipped_rows() const { return skipped_rows_; }

 private:
  struct Sums {
    at::Tensor magnitude;  // float64 [heads, dim]
    at::Tensor rows;       // float64 [heads]
  };
  struct LayerSums {
    Sums q, k;
  };

  // `x` is [batch, heads, tokens, dim].
  void AddRows(const at::Tensor& x, Sums* sums);

  bool average_group_;
  int64_t skipped_rows_ = 0;
  std::map<int64_t, LayerSums> layers_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_CHANNEL_CALIBRATION_H_
