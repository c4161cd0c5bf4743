// A GoogleMock matcher that compares a tensor with an expectation in float64, for tests.
//
//   EXPECT_THAT(out, TensorNear(reference, {.relative_eps = 2, .absolute_eps = num_active}));
//
// First the positions of NaN, +inf and -inf must agree; then every finite entry must satisfy
//   |actual - expected| <= eps * (relative_eps * |expected| + absolute_eps * magnitude)
// with the machine epsilon of the actual tensor's type, so that a tolerance says how many roundings
// the computation may make. A failure reports the worst index, both values and the share of entries
// that pass.
#ifndef SPARSE_ATTENTION_BASE_TENSOR_NEAR_H_
#define SPARSE_ATTENTION_BASE_TENSOR_NEAR_H_

#include <ATen/core/Tensor.h>

#include <ostream>

#include "gmock/gmock.h"

namespace sparse_attention {

struct Tolerance {
  double relative_eps = 0;  // times |expected| of each entry
  double absolute_eps = 0;  // times `magnitude`: what cancellation in a sum is measured against
  double magnitude = 0;     // 0: the largest finite |expected|
};

class TensorNearMatcher {
 public:
  using is_gtest_matcher = void;

  TensorNearMatcher(at::Tensor expected, const Tolerance& tolerance);
  bool MatchAndExplain(const at::Tensor& actual, ::testing::MatchResultListener* out) const;
  void DescribeTo(std::ostream* out) const;
  void DescribeNegationTo(std::ostream* out) const;

 private:
  at::Tensor expected_;  // float64 on the host, contiguous
  Tolerance tolerance_;
};

inline TensorNearMatcher TensorNear(at::Tensor expected, const Tolerance& tolerance) {
  return TensorNearMatcher(std::move(expected), tolerance);
}

// The same positions of NaN, and every other entry the same value. The sign of a zero is ignored.
inline TensorNearMatcher TensorEquals(at::Tensor expected) {
  return TensorNearMatcher(std::move(expected), {});
}

}  // namespace sparse_attention

namespace at {
// What GoogleTest prints for a tensor: its description, and the values of a small one.
void PrintTo(const Tensor& tensor, std::ostream* out);
}  // namespace at

#endif  // SPARSE_ATTENTION_BASE_TENSOR_NEAR_H_
