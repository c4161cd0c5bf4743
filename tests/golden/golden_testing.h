// What the golden tests share: inputs by formula, numbers of the files, comparison.
#ifndef TESTS_GOLDEN_GOLDEN_TESTING_H_
#define TESTS_GOLDEN_GOLDEN_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

constexpr double kTolerance = 1e-5;  // absolute

Json GoldenFile(const std::string& path);

// x[i] = sin(a i + b) scale over the row-major index, in double, then rounded to float32.
at::Tensor Generate(const std::vector<int64_t>& shape, double a, double b, double scale);

// The inputs of every case. Causal: by an additive bias of the lowest float32.
AttentionInputs GoldenInputs(bool causal);

at::Tensor Numbers(const Json& json);  // float64

// |actual - expected| <= tolerance everywhere; NaN is far from everything.
void ExpectNear(const at::Tensor& actual, const at::Tensor& expected,
                double tolerance = kTolerance);

}  // namespace sparse_attention

#endif  // TESTS_GOLDEN_GOLDEN_TESTING_H_
