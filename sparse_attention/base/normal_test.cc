#include "sparse_attention/base/normal.h"

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// Moments of 200,000 draws, each within 5 standard errors: E x = 0, E x^2 = 1, E x^4 = 3, E xy = 0.
TEST(NormalPair, HasTheMomentsOfTheNormalDistribution) {
  PhiloxStream stream(1, RandomPurpose::kTest, 0, 0, 0);
  constexpr int kPairs = 100000;
  double first = 0, second = 0, fourth = 0, product = 0;
  for (int i = 0; i < kPairs; ++i) {
    const auto [x, y] = NormalPair(stream);
    first += x + y;
    second += x * x + y * y;
    fourth += x * x * x * x + y * y * y * y;
    product += x * y;
  }
  const double n = 2 * kPairs;
  EXPECT_NEAR(first / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(second / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96 / n));
  EXPECT_NEAR(product / kPairs, 0, 5 / std::sqrt(kPairs));
}

TEST(NormalPair, TakesTwoUniformDraws) {
  PhiloxStream pairs(2, RandomPurpose::kTest, 0, 0, 0), plain(2, RandomPurpose::kTest, 0, 0, 0);
  NormalPair(pairs);
  plain.Uniform();
  plain.Uniform();
  EXPECT_EQ(pairs.Next(), plain.Next());
}

}  // namespace
}  // namespace sparse_attention
