#include "sparse_attention/key_index/row_matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <cstdint>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention {

at::Tensor RowMatmul(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor wide = x.to(at::kFloat);
  if (!x.device().is_cpu()) return at::matmul(wide, w);
  const int64_t in = w.size(0), out = w.size(1);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = out;
  const at::Tensor weights = w.contiguous();
  const at::Tensor rows = wide.contiguous().view({-1, in});
  at::Tensor result = at::empty({rows.size(0), out}, rows.options());
  const float* const x_data = rows.const_data_ptr<float>();
  const cpu::Weights view = cpu::PlainWeights(weights.const_data_ptr<float>(), in, out);
  float* const out_data = result.data_ptr<float>();
  const cpu::RowProductKernels kernels = cpu::RowProductKernelsFor(cpu::BestIsa());
  constexpr int64_t kGrain = 16;
  at::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
    kernels.multiply(x_data + begin * in, end - begin, in, view, nullptr, out_data + begin * out,
                     out);
  });
  return result.view(shape);
}

}  // namespace sparse_attention
