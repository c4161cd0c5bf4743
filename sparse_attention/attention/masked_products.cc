#include "sparse_attention/attention/masked_products.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "sparse_attention/attention/selected_keys.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPiecePairs = 1 << 16;  // gathered at a time on devices

template <typename T>
__attribute__((target_clones("avx512f", "avx2", "default"))) void RowProducts(
    const float* q, const T* keys, int64_t key_stride, int64_t dim, const int32_t* chosen,
    int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Product(q, keys + chosen[i] * key_stride, dim);
}

template <typename T>
at::Tensor OnHost(const at::Tensor& q, const at::Tensor& k, const at::Tensor& mask) {
  const int64_t heads = q.size(1), queries = q.size(2), dim = q.size(3);
  const int64_t group = k.size(1) == 0 ? 1 : heads / k.size(1);
  const SelectedKeys selected = ListSelectedKeys(mask);
  at::Tensor products = at::empty({static_cast<int64_t>(selected.keys.size())}, q.options());
  const float* const q_data = q.const_data_ptr<float>();
  const T* const k_data = k.const_data_ptr<T>();
  float* const out = products.data_ptr<float>();
  const int64_t rows = static_cast<int64_t>(selected.ends.size());
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / queries % heads, sequence = row / queries / heads;
      const T* const keys = k_data + sequence * k.stride(0) + head / group * k.stride(1);
      const int64_t first = selected.begin(row);
      RowProducts(q_data + row * dim, keys, k.stride(2), dim, selected.keys.data() + first,
                  selected.ends[row] - first, out + first);
    }
  });
  return products;
}

at::Tensor OnDevice(const at::Tensor& q, const at::Tensor& k, const at::Tensor& mask) {
  const at::Tensor pairs = mask.nonzero();  // [pairs, 4]
  const int64_t group = k.size(1) == 0 ? 1 : q.size(1) / k.size(1);
  at::Tensor products = at::empty({pairs.size(0)}, q.options());
  for (int64_t begin = 0; begin < pairs.size(0); begin += kPiecePairs) {
    const int64_t length = std::min(kPiecePairs, pairs.size(0) - begin);
    const at::Tensor piece = pairs.narrow(0, begin, length);
    const at::Tensor b = piece.select(1, 0), h = piece.select(1, 1), i = piece.select(1, 2);
    const at::Tensor j = piece.select(1, 3);
    const at::Tensor kv = h.div(group, "floor");
    const at::Tensor keys = k.index({b, kv, j}).to(at::kFloat);
    products.narrow(0, begin, length).copy_(q.index({b, h, i}).mul_(keys).sum(-1));
  }
  return products;
}

}  // namespace

at::Tensor MaskedProducts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& mask) {
  if (!q.device().is_cpu()) return OnDevice(q, k, mask);
  const at::Tensor keys = k.stride(3) == 1 ? k : k.contiguous();
  return AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, k.scalar_type(), "MaskedProducts",
      [&] { return OnHost<scalar_t>(q.contiguous(), keys, mask.contiguous()); });
}

}  // namespace sparse_attention
