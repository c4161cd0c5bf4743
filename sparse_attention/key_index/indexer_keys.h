// The index of a lightning indexer: one short vector a token, for all heads. DeepSeek-AI,
// DeepSeek-V3.2, 2025:
//   score(t, s) = sum over indexer heads j of gate_j(t) relu(q_j(t) . k(s))
// where the paper projects hidden states, queries and keys of all heads are projected here, since
// these are what a host hands over.
#ifndef SPARSE_ATTENTION_KEY_INDEX_INDEXER_KEYS_H_
#define SPARSE_ATTENTION_KEY_INDEX_INDEXER_KEYS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sparse_attention/key_index/growing_tensor.h"

namespace sparse_attention {

// The weights of a layer, as indexer_weights.h has them.
struct IndexerLayer {
  at::Tensor query, key, gate;  // float32
  int64_t width() const { return key.size(1); }
};

// After any Extend the vectors equal those of a fresh build. Memory: width floats a token.
class IndexerKeys {
 public:
  // `keys` [batch, KV heads, n, dim]. `layer` must outlive the index and be on the keys' device.
  IndexerKeys(const at::Tensor& keys, const IndexerLayer& layer);

  // Covers `keys`, whose first `unchanged` are as they were.
  void Extend(const at::Tensor& keys, int64_t unchanged);
  // Keys whose change asks for a fresh build.
  int64_t prefix() const { return 0; }

  at::Tensor keys() const { return keys_.view(); }  // [batch, n, width]

  // q [batch, query heads, queries, dim] to float32 [batch, queries, n].
  at::Tensor Scores(const at::Tensor& q) const;

 private:
  const IndexerLayer* layer_;
  GrowingTensor keys_{1};  // [batch, n, width]
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_INDEXER_KEYS_H_
