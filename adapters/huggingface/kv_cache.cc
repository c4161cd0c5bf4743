#include "adapters/huggingface/kv_cache.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {

absl::StatusOr<KvCache> KvCache::Create(const KvCacheShape& shape, int64_t capacity,
                                        at::ScalarType type, at::Device device) {
  if (capacity < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("capacity of a KV cache must be >= 1, got ", capacity));
  }
  return CatchTorch([&]() -> absl::StatusOr<KvCache> {
    KvCache cache;
    const auto options = at::TensorOptions().dtype(type).device(device);
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      for (auto* side : {&cache.k_, &cache.v_}) {
        side->push_back(at::empty({1, shape.kv_heads, capacity, shape.head_dim}, options));
      }
    }
    cache.capacity_ = capacity;
    return cache;
  });
}

absl::Status KvCache::Reserve(int64_t capacity) {
  if (capacity <= capacity_) return absl::OkStatus();
  return CatchTorch([&]() -> absl::Status {
    // One tensor at a time, so that little is held twice.
    for (auto* side : {&k_, &v_}) {
      for (at::Tensor& held : *side) {
        at::Tensor grown = at::empty({1, held.size(1), capacity, held.size(3)}, held.options());
        grown.narrow(2, 0, length_).copy_(held.narrow(2, 0, length_));
        held = std::move(grown);
      }
    }
    capacity_ = capacity;
    return absl::OkStatus();
  });
}

absl::Status KvCache::CheckRoom(int64_t tokens) const {
  if (tokens <= capacity_ - length_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the KV cache holds ", length_, " of ",
                                                   capacity_, " tokens and has no room for ",
                                                   tokens, " more"));
}

absl::StatusOr<at::Tensor> KvCache::NewKeys(int64_t layer, int64_t tokens) {
  SA_RETURN_IF_ERROR(CheckRoom(tokens));
  return k_[layer].narrow(2, length_, tokens);
}

absl::StatusOr<at::Tensor> KvCache::NewValues(int64_t layer, int64_t tokens) {
  SA_RETURN_IF_ERROR(CheckRoom(tokens));
  return v_[layer].narrow(2, length_, tokens);
}

void KvCache::Advance(int64_t tokens) {
  SA_CHECK(tokens >= 0 && tokens <= capacity_ - length_);
  length_ += tokens;
}

absl::Status KvCache::Truncate(int64_t length) {
  if (length < 0 || length > length_) {
    return absl::InvalidArgumentError(
        absl::StrCat("length must be in [0, ", length_, "], got ", length));
  }
  length_ = length;
  return absl::OkStatus();
}

}  // namespace sparse_attention
