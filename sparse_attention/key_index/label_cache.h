// LabelCache: a few channels of every key, quantised, whose products with the same channels of a
// query stand for the whole product. Yang et al., Post-training sparse attention with double
// sparsity, 2024.
#ifndef SPARSE_ATTENTION_KEY_INDEX_LABEL_CACHE_H_
#define SPARSE_ATTENTION_KEY_INDEX_LABEL_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/key_index/growing_tensor.h"

namespace sparse_attention {

// Where all query heads of a group have the same channels, labels are kept once for each KV head,
// else for each query head: a "set" below. After any Extend the labels equal those of a fresh
// build. Memory a key and set, with r channels: r bytes and two float32 (label_bits up to 8), 2 * r
// bytes and two float32 (up to 15), r elements of the keys' type (16: not quantised).
class LabelCache {
 public:
  // `keys` [batch, KV heads, n, dim]; `channels` int64 [query heads, r] on the keys' device, r >=
  // 1; label_bits in [1, 16].
  LabelCache(const at::Tensor& keys, const at::Tensor& channels, int64_t label_bits);

  // Covers `keys`, whose first `unchanged` are as they were.
  void Extend(const at::Tensor& keys, int64_t unchanged);
  // Keys whose change asks for a fresh build.
  int64_t prefix() const { return 0; }

  // q [batch, query heads, queries, dim] to float32 [batch, query heads, queries, n]: products of
  // the quantised channels over sqrt(r).
  at::Tensor Scores(const at::Tensor& q) const;

  int64_t sets() const { return key_channels_.size(0); }
  // Bytes that scoring reads at these inputs.
  static int64_t Bytes(const AttentionInputs& inputs, const at::Tensor& channels,
                       int64_t label_bits);

 private:
  bool quantized() const { return label_bits_ < 16; }

  at::Tensor channels_;      // [query heads, r]
  at::Tensor key_channels_;  // [sets, r]
  int64_t label_bits_;
  GrowingTensor labels_{2};  // [batch, sets, n, r]
  GrowingTensor scale_{2};   // [batch, sets, n, 1] float32, where quantised
  GrowingTensor low_{2};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_LABEL_CACHE_H_
