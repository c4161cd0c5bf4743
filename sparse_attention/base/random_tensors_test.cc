#include "sparse_attention/base/random_tensors.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

TEST(RandomTensors, TheSameSeedReplays) {
  RandomTensors a(7), b(7), c(8);
  const at::Tensor first = a.Normal({3, 5});
  EXPECT_TRUE(first.equal(b.Normal({3, 5})));
  EXPECT_FALSE(first.equal(a.Normal({3, 5})));
  EXPECT_FALSE(first.equal(c.Normal({3, 5})));
}

TEST(RandomTensors, MomentsAreThoseOfTheDistribution) {
  RandomTensors random(1);
  constexpr int64_t kCount = 100'000;
  const at::Tensor normal = random.Normal({kCount}, at::kDouble, /*stddev=*/2);
  // Six standard errors: a false alarm in 1e9 seeds, and the seed is fixed.
  EXPECT_NEAR(normal.mean().item<double>(), 0, 6 * 2 / std::sqrt(kCount));
  EXPECT_NEAR(normal.var().item<double>(), 4, 6 * 4 * std::sqrt(2.0 / kCount));
  const at::Tensor uniform = random.Uniform({kCount}, -1, 3, at::kDouble);
  EXPECT_NEAR(uniform.mean().item<double>(), 1, 6 * 4 / std::sqrt(12.0 * kCount));
  EXPECT_GE(uniform.min().item<double>(), -1);
  EXPECT_LT(uniform.max().item<double>(), 3);
}

TEST(RandomTensors, IntegersCoverTheirClosedRange) {
  RandomTensors random(2);
  bool seen[3] = {};
  for (int i = 0; i < 100; ++i) {
    const int64_t x = random.Integer(-1, 1);
    ASSERT_GE(x, -1);
    ASSERT_LE(x, 1);
    seen[x + 1] = true;
  }
  EXPECT_TRUE(seen[0] && seen[1] && seen[2]);
}

TEST(RandomTensors, PlantOverwritesEntries) {
  RandomTensors random(3);
  at::Tensor x = random.Normal({4, 8}, at::kBFloat16);
  random.Plant(x, std::numeric_limits<double>::quiet_NaN(), 3);
  const int64_t planted = x.isnan().sum().item<int64_t>();
  EXPECT_GE(planted, 1);
  EXPECT_LE(planted, 3);
  EXPECT_EQ(x.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace sparse_attention
