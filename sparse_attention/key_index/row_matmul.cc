#include "sparse_attention/key_index/row_matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace sparse_attention {
namespace {

// A vector type keeps the order of every sum: lanes are different outputs. Where registers are
// narrower the compiler splits it.
typedef float Lanes __attribute__((vector_size(64)));
constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);
constexpr int64_t kColumns = 2 * kLanes;  // outputs of one tile
constexpr int64_t kRows = 4;

// One tile: `Rows` rows of x and kColumns outputs.
template <int64_t Rows>
inline __attribute__((always_inline)) void Tile(const float* x, int64_t in, const float* w,
                                                int64_t w_stride, float* out, int64_t out_stride) {
  Lanes low[Rows] = {}, high[Rows] = {};
  for (int64_t i = 0; i < in; ++i) {
    Lanes w_low, w_high;
    std::memcpy(&w_low, w + i * w_stride, sizeof(w_low));
    std::memcpy(&w_high, w + i * w_stride + kLanes, sizeof(w_high));
    for (int64_t r = 0; r < Rows; ++r) {
      const float value = x[r * in + i];
      low[r] += value * w_low;
      high[r] += value * w_high;
    }
  }
  for (int64_t r = 0; r < Rows; ++r) {
    std::memcpy(out + r * out_stride, &low[r], sizeof(Lanes));
    std::memcpy(out + r * out_stride + kLanes, &high[r], sizeof(Lanes));
  }
}

// `columns` is a multiple of kColumns; rows of w and out have that length.
__attribute__((target_clones("avx512f", "avx2", "default"))) void MultiplyRows(
    const float* x, int64_t rows, int64_t in, const float* w, int64_t columns, float* out) {
  for (int64_t column = 0; column < columns; column += kColumns) {
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows) {
      Tile<kRows>(x + row * in, in, w + column, columns, out + row * columns + column, columns);
    }
    for (; row < rows; ++row) {
      Tile<1>(x + row * in, in, w + column, columns, out + row * columns + column, columns);
    }
  }
}

}  // namespace

at::Tensor RowMatmul(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor wide = x.to(at::kFloat);
  if (!x.device().is_cpu()) return at::matmul(wide, w);
  const int64_t in = w.size(0), out = w.size(1);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = out;
  const int64_t padding = (kColumns - out % kColumns) % kColumns;
  const at::Tensor weights = at::constant_pad_nd(w, {0, padding}).contiguous();
  const at::Tensor rows = wide.contiguous().view({-1, in});
  at::Tensor result = at::empty({rows.size(0), out + padding}, rows.options());
  const float* const x_data = rows.const_data_ptr<float>();
  const float* const w_data = weights.const_data_ptr<float>();
  float* const out_data = result.data_ptr<float>();
  constexpr int64_t kGrain = 16;
  at::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
    MultiplyRows(x_data + begin * in, end - begin, in, w_data, out + padding,
                 out_data + begin * (out + padding));
  });
  return result.narrow(1, 0, out).reshape(shape);
}

}  // namespace sparse_attention
