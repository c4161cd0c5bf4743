#include "tests/golden/golden_testing.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

Json GoldenFile(const std::string& path) {
  absl::StatusOr<Json> json = ReadJsonFile(path);
  SA_CHECK_OK(json);
  return *std::move(json);
}

at::Tensor Generate(const std::vector<int64_t>& shape, double a, double b, double scale) {
  at::Tensor x = at::zeros(shape, at::kFloat);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = static_cast<float>(std::sin(a * static_cast<double>(i) + b) * scale);
  }
  return x;
}

AttentionInputs GoldenInputs(bool causal) {
  AttentionInputs in;
  in.q = Generate({1, 4, 2, 8}, .37, .10, 2);
  in.k = Generate({1, 2, 24, 8}, .53, .20, 2);
  in.v = Generate({1, 2, 24, 8}, .71, .30, 1);
  if (causal) {
    in.bias = at::zeros({1, 1, 2, 24});
    in.bias->select(2, 0).select(2, 23).fill_(std::numeric_limits<float>::lowest());
  }
  return in;
}

at::Tensor Numbers(const Json& json) { return at::tensor(json.get<std::vector<double>>()); }

void ExpectNear(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.numel(), expected.numel());
  const at::Tensor difference = actual.to(at::kDouble).flatten().sub(expected.flatten()).abs();
  EXPECT_TRUE(difference.le(tolerance).all().item<bool>())
      << "largest difference " << difference.max().item<double>();
}

}  // namespace sparse_attention
