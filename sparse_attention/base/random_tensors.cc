#include "sparse_attention/base/random_tensors.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "sparse_attention/base/normal.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

int64_t RandomTensors::Integer(int64_t low, int64_t high) {
  SA_CHECK(low <= high && high - low < std::numeric_limits<uint32_t>::max());
  return low + stream_.Below(static_cast<uint32_t>(high - low + 1));
}

double RandomTensors::Real(double low, double high) {
  return low + (high - low) * stream_.Uniform();
}

at::Tensor RandomTensors::Normal(at::IntArrayRef shape, at::ScalarType type, double stddev) {
  at::Tensor result = at::empty(shape, at::kFloat);
  float* data = result.data_ptr<float>();
  for (int64_t i = 0; i < result.numel(); i += 2) {
    const auto [x, y] = NormalPair(stream_);
    data[i] = static_cast<float>(stddev * x);
    if (i + 1 < result.numel()) data[i + 1] = static_cast<float>(stddev * y);
  }
  return result.to(type);
}

at::Tensor RandomTensors::Uniform(at::IntArrayRef shape, double low, double high,
                                  at::ScalarType type) {
  at::Tensor result = at::empty(shape, at::kFloat);
  float* data = result.data_ptr<float>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = static_cast<float>(Real(low, high));
  return result.to(type);
}

void RandomTensors::Plant(at::Tensor& tensor, double value, int64_t count) {
  at::Tensor flat = tensor.view({-1});
  for (int64_t i = 0; i < count && flat.numel() > 0; ++i) {
    flat[Integer(0, flat.numel() - 1)].fill_(value);
  }
}

}  // namespace sparse_attention
