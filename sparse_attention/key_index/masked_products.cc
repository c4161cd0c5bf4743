#include "sparse_attention/key_index/masked_products.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

namespace sparse_attention {
namespace {

constexpr int64_t kPiecePairs = 1 << 16;  // gathered at a time on devices

// Sixteen partial sums, so that the loop runs in vectors; their number fixes the order of
// additions.
template <typename T>
inline __attribute__((always_inline)) float Product(const float* q, const T* k, int64_t dim) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += q[i + lane] * static_cast<float>(k[i + lane]);
    }
  }
  for (int64_t lane = 0; i < dim; ++i, ++lane) lanes[lane] += q[i] * static_cast<float>(k[i]);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <typename T>
at::Tensor OnHost(const at::Tensor& q, const at::Tensor& k, const at::Tensor& mask) {
  const int64_t heads = q.size(1), queries = q.size(2), dim = q.size(3), n = k.size(2);
  const int64_t rows = q.size(0) * heads * queries;
  const int64_t group = k.size(1) == 0 ? 1 : heads / k.size(1);
  const at::Tensor ends_of_rows = mask.sum(-1).flatten().cumsum(0);
  const int64_t count = rows == 0 ? 0 : ends_of_rows[rows - 1].item<int64_t>();
  at::Tensor products = at::empty({count}, q.options());
  const int64_t* const ends = ends_of_rows.const_data_ptr<int64_t>();
  const bool* const chosen = mask.const_data_ptr<bool>();
  const float* const q_data = q.const_data_ptr<float>();
  const T* const k_data = k.const_data_ptr<T>();
  float* const out_data = products.data_ptr<float>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / queries % heads, sequence = row / queries / heads;
      const T* const keys = k_data + sequence * k.stride(0) + head / group * k.stride(1);
      float* out = out_data + (row == 0 ? 0 : ends[row - 1]);
      for (int64_t j = 0; j < n; ++j) {
        if (chosen[row * n + j]) *out++ = Product(q_data + row * dim, keys + j * k.stride(2), dim);
      }
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
