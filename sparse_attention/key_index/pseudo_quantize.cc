#include "sparse_attention/key_index/pseudo_quantize.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/where.h>

namespace sparse_attention {

QuantizedVectors QuantizeVectors(const at::Tensor& x, int64_t bits) {
  const at::Tensor wide = x.to(at::kFloat);
  const auto [low, high] = at::aminmax(wide, -1, /*keepdim=*/true);
  const at::Tensor range = high.sub(low);
  const double levels = static_cast<double>((int64_t{1} << bits) - 1);
  const at::Tensor scale = at::where(range.eq(0), 1., range).reciprocal().mul(levels);
  const at::Tensor codes = wide.sub(low).mul_(scale).round_().clamp_(0, levels);
  return {codes, scale, low};
}

at::Tensor PseudoQuantize(const at::Tensor& x, int64_t bits) {
  const QuantizedVectors quantized = QuantizeVectors(x, bits);
  return quantized.codes.div(quantized.scale).add_(quantized.low);
}

}  // namespace sparse_attention
