#include "sparse_attention/base/tensor_near.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <string>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor Doubles(std::initializer_list<double> values) {
  return at::tensor(at::ArrayRef<double>(values.begin(), values.size()), at::kDouble);
}
at::Tensor Floats(std::initializer_list<double> values) { return Doubles(values).to(at::kFloat); }

std::string Explain(const at::Tensor& actual, const TensorNearMatcher& matcher) {
  ::testing::StringMatchResultListener listener;
  EXPECT_FALSE(matcher.MatchAndExplain(actual, &listener));
  return listener.str();
}

TEST(TensorNear, CountsEpsilonsOfTheActualType) {
  const double eps = std::numeric_limits<float>::epsilon();
  EXPECT_THAT(Floats({1 + eps}), TensorNear(Doubles({1}), {.relative_eps = 1}));
  EXPECT_THAT(Floats({1 + 2 * eps}), Not(TensorNear(Doubles({1}), {.relative_eps = 1})));
  // One bfloat16 step at 1 is 2^-7.
  const at::Tensor step = Doubles({1 + 0x1p-7}).to(at::kBFloat16);
  EXPECT_THAT(step, TensorNear(Doubles({1}), {.relative_eps = 1}));
  EXPECT_THAT(step.to(at::kFloat), Not(TensorNear(Doubles({1}), {.relative_eps = 1})));
}

TEST(TensorNear, AbsolutePartScalesWithTheLargestExpectedOrTheGivenMagnitude) {
  const double eps = std::numeric_limits<float>::epsilon();
  const at::Tensor actual = Floats({8, 4 * eps});
  EXPECT_THAT(actual, TensorNear(Doubles({8, 0}), {.absolute_eps = 1}));
  EXPECT_THAT(actual, Not(TensorNear(Doubles({8, 0}), {.absolute_eps = 1, .magnitude = 2})));
  EXPECT_THAT(actual, TensorNear(Doubles({8, 0}), {.absolute_eps = 1, .magnitude = 4}));
}

TEST(TensorNear, PositionsOfNanAndInfinityComeFirst) {
  EXPECT_THAT(Floats({kNan, kInf, -kInf, 1}), TensorEquals(Doubles({kNan, kInf, -kInf, 1})));
  EXPECT_THAT(Explain(Floats({1, kNan, 7}), TensorNear(Doubles({1, 2, 3}), {.relative_eps = 1e9})),
              "where NaN or infinity differs at 1 of 3 entries, first at [1]: got nan, want 2");
  EXPECT_THAT(Floats({kInf}), Not(TensorEquals(Doubles({-kInf}))));
  EXPECT_THAT(Floats({0}), Not(TensorEquals(Doubles({kNan}))));
  EXPECT_THAT(Floats({kInf}), Not(TensorNear(Doubles({3e38}), {.relative_eps = 1e9})));
}

TEST(TensorNear, ReportsTheWorstEntryAndTheShareThatPasses) {
  const at::Tensor expected = at::zeros({2, 3}, at::kDouble);
  at::Tensor actual = at::zeros({2, 3}, at::kFloat);
  actual[0][1] = 0.5;
  actual[1][2] = -2;
  EXPECT_THAT(Explain(actual, TensorNear(expected, {.absolute_eps = 1, .magnitude = 1})),
              AllOf(HasSubstr("worst entry [1, 2] is -2, want 0, off by 2"),
                    HasSubstr("4 of 6 entries pass")));
}

TEST(TensorNear, ShapesMustAgree) {
  EXPECT_THAT(Explain(at::zeros({2, 1}), TensorEquals(at::zeros({2}))),
              "which is float32 [2, 1] on cpu");
  EXPECT_THAT(Explain(at::Tensor(), TensorEquals(at::zeros({2}))), "which is undefined");
  EXPECT_THAT(at::zeros({0, 4}), TensorEquals(at::zeros({0, 4})));
}

TEST(TensorNear, IntegersAndBoolsAreExact) {
  EXPECT_THAT(at::full({2}, 3, at::kLong), TensorEquals(Doubles({3, 3})));
  EXPECT_THAT(at::full({2}, 3, at::kLong), Not(TensorNear(Doubles({3, 4}), {.relative_eps = 100})));
  EXPECT_THAT(at::full({1}, true, at::kBool), TensorEquals(Doubles({1})));
}

TEST(TensorNear, PrintsSmallTensorsWithTheirValues) {
  EXPECT_EQ(::testing::PrintToString(Floats({1, 2.5})), "float32 [2] on cpu {1, 2.5}");
  EXPECT_EQ(::testing::PrintToString(at::zeros({100})), "float32 [100] on cpu");
}

}  // namespace
}  // namespace sparse_attention
