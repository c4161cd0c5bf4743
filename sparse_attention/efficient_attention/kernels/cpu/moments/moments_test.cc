#include "sparse_attention/efficient_attention/kernels/cpu/moments/moments.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class MomentsTest : public IsaTest {
 protected:
  const MomentKernels kernels_ = MomentKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(MomentsTest);

std::vector<float> Logits(int64_t count, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(-3, 2);
  std::vector<float> x(count);
  for (float& v : x) v = normal(generator);
  return x;
}

TEST_P(MomentsTest, OfEveryLength) {
  for (int64_t count = 1; count < 100; ++count) {
    CountCase(GetParam());
    const std::vector<float> x = Logits(count, count);
    double sum = 0, squares = 0, fourth = 0;
    for (float v : x) sum += v;
    const double n = static_cast<double>(count), mean = sum / n;
    for (float v : x) squares += (v - mean) * (v - mean);
    for (float v : x) {
      const double off = (v - mean) * (v - mean) - squares / n;
      fourth += off * off;
    }
    const Moments moments = kernels_.moments(x.data(), count);
    // Sums of `count` terms in another order.
    const double rounding = n * 0x1p-50;
    EXPECT_NEAR(moments.sum, sum, rounding * (std::abs(sum) + n));
    EXPECT_NEAR(moments.squares, squares, rounding * (squares + 1));
    EXPECT_NEAR(moments.fourth, fourth, rounding * (fourth + 1));
    float most = x[0];
    for (float v : x) most = std::max(most, v);
    EXPECT_EQ(kernels_.most(x.data(), count), most);
  }
}

TEST_P(MomentsTest, MassesAreExponentials) {
  for (int64_t count : {1, 7, 16, 33, 1000}) {
    CountCase(GetParam());
    const std::vector<float> x = Logits(count, 7 + count);
    std::vector<float> mass = x;
    mass.push_back(123);
    const float top = kernels_.most(x.data(), count);
    kernels_.masses(mass.data(), count, top);
    for (int64_t i = 0; i < count; ++i) {
      const double exact = std::exp(static_cast<double>(x[i] - top));
      EXPECT_NEAR(mass[i], exact, 3 * 0x1p-24 * exact);
    }
    EXPECT_EQ(mass.back(), 123) << "wrote behind the end";
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
