// KvCache: the keys and values of one sequence, every layer, in memory allocated once.
//
// Tokens are appended in place; Truncate forgets the latest ones by length alone, so that many
// continuations can be tried after one context. Memory is 2 * layers * KV heads * capacity * head
// dim elements; on the CPU pages count once they are written.
#ifndef ADAPTERS_HUGGINGFACE_KV_CACHE_H_
#define ADAPTERS_HUGGINGFACE_KV_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "sparse_attention/base/status.h"

namespace sparse_attention {

struct KvCacheShape {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

class KvCache {
 public:
  // `capacity` in tokens, >= 1. ResourceExhausted if memory does not suffice.
  static absl::StatusOr<KvCache> Create(const KvCacheShape& shape, int64_t capacity,
                                        at::ScalarType type, at::Device device);

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  int64_t layers() const { return static_cast<int64_t>(k_.size()); }

  // Makes room for `capacity` tokens; copies what is held if there was less.
  absl::Status Reserve(int64_t capacity);

  // The next `tokens` tokens of a layer, to be written: [1, KV heads, tokens, head dim].
  // ResourceExhausted where the capacity does not suffice. They count once Advance is called.
  absl::StatusOr<at::Tensor> NewKeys(int64_t layer, int64_t tokens);
  absl::StatusOr<at::Tensor> NewValues(int64_t layer, int64_t tokens);
  // After every layer has written them.
  void Advance(int64_t tokens);

  // The first `tokens` tokens of a layer, [1, KV heads, tokens, head dim], a view.
  at::Tensor Keys(int64_t layer, int64_t tokens) const { return k_[layer].narrow(2, 0, tokens); }
  at::Tensor Values(int64_t layer, int64_t tokens) const { return v_[layer].narrow(2, 0, tokens); }

  // Keeps the first `length` tokens. InvalidArgument unless 0 <= length <= length().
  absl::Status Truncate(int64_t length);

 private:
  KvCache() = default;
  absl::Status CheckRoom(int64_t tokens) const;

  std::vector<at::Tensor> k_;  // per layer [1, KV heads, capacity, head dim]
  std::vector<at::Tensor> v_;
  int64_t length_ = 0;
  int64_t capacity_ = 0;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_KV_CACHE_H_
