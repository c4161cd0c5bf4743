#include "sparse_attention/efficient_attention/kernels/cpu/score/collision_bias.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"
#include "sparse_attention/key_index/hash_core.h"

namespace sparse_attention::cpu {
namespace {

class CollisionBiasTest : public IsaTest {
 protected:
  const CollisionBiasKernels kernels_ = CollisionBiasKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(CollisionBiasTest);

// Cosines everywhere, next to both ends, at the places where formulas meet, and beyond.
std::vector<double> Cosines() {
  std::vector<double> cosines = {0, -0., 0.5, -0.5, 1, -1, 1.5, -1.5, std::nextafter(0.5, 1)};
  for (int i = -500; i <= 500; ++i) cosines.push_back(i * 0.00199);
  for (double near = 1; near > 1e-16; near *= 0.7) {
    cosines.push_back(near - 1);
    cosines.push_back(1 - near);
  }
  return cosines;
}

TEST_P(CollisionBiasTest, IsThatOfTheProbability) {
  const std::vector<double> cosines = Cosines();
  const int64_t n = static_cast<int64_t>(cosines.size());
  for (int64_t bits : {1, 2, 9, 10, 64}) {
    for (int64_t tables : {1, 2, 75, 150, 4000}) {
      CountCase(GetParam());
      constexpr double kOffset = 0.25, kInverse = 0.125;  // exact
      std::vector<double> products(cosines);
      for (double& x : products) x = x / kInverse + kOffset;
      std::vector<float> bias(cosines.size());
      kernels_.bias({kOffset, kInverse, bits, tables}, products.data(), n, bias.data());
      for (size_t i = 0; i < cosines.size(); ++i) {
        const double cosine = (products[i] - kOffset) * kInverse;
        const double p = CollisionProbability(cosine, bits, tables);
        if (!(static_cast<float>(p) > 0)) {
          // The definition cancels next to -1: what is left there may be held to be something.
          ASSERT_GT(bias[i], 90) << cosine;
          continue;
        }
        const double exact = -std::log(p);
        // 1 - acos / pi has lost so much of itself in the definition.
        const double side = 1 - std::acos(std::clamp(cosine, -1., 1.)) / 3.14159265358979;
        const double off = static_cast<double>(bits) * (1e-12 + 2e-16 / side);
        ASSERT_NEAR(bias[i], exact, off + 0x1p-24 * exact)
            << cosine << ", " << bits << " bits, " << tables << " tables";
      }
    }
  }
}

TEST_P(CollisionBiasTest, OfWhatHasNoProbability) {
  CountCase(GetParam());
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> products = {nan, -1, -2, -infinity, infinity, 1, -1 + 1e-9};
  std::vector<float> bias(products.size());
  kernels_.bias({0, 1, 10, 75}, products.data(), 7, bias.data());
  for (int i : {0, 1, 2, 3, 6}) EXPECT_EQ(bias[i], std::numeric_limits<float>::infinity()) << i;
  EXPECT_NEAR(bias[4], 0, 1e-12);
  EXPECT_NEAR(bias[5], 0, 1e-12);
}

// Every place in a vector, and nothing behind the end.
TEST_P(CollisionBiasTest, AnyLength) {
  TestRandom random(3);
  std::vector<double> all(40);
  for (double& x : all) x = std::tanh(static_cast<double>(random.Normal()));
  std::vector<float> expected(40);
  const CollisionProblem problem = {0, 1, 10, 75};
  kernels_.bias(problem, all.data(), 40, expected.data());
  for (int64_t n = 0; n < 40; ++n) {
    CountCase(GetParam());
    Exact<double> products(n);
    for (int64_t i = 0; i < n; ++i) products[i] = all[39 - n + i];
    Guarded<float> bias(n);
    kernels_.bias(problem, products.data(), n, bias.data());
    ASSERT_TRUE(bias.intact());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(bias[i], expected[39 - n + i]);
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
