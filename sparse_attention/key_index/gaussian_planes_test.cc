#include "sparse_attention/key_index/gaussian_planes.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::Ne;

TEST(GaussianPlanes, AreAFunctionOfSeedLayerAndTable) {
  const FloatArray planes = GaussianPlanes(1, 2, 5, 3, 7);
  EXPECT_THAT(planes.shape, ElementsAre(5, 3, 7));
  EXPECT_EQ(planes.values, GaussianPlanes(1, 2, 5, 3, 7).values);
  const std::vector<float> fewer = GaussianPlanes(1, 2, 2, 3, 7).values;
  EXPECT_EQ(fewer, std::vector<float>(planes.values.begin(), planes.values.begin() + 2 * 3 * 7));
  EXPECT_THAT(GaussianPlanes(2, 2, 5, 3, 7).values, Ne(planes.values));
  EXPECT_THAT(GaussianPlanes(1, 3, 5, 3, 7).values, Ne(planes.values));
  const FloatArray many = GaussianPlanes(1, 0, 100, 10, 30);
  double sum = 0, squares = 0;
  for (float x : many.values) sum += x, squares += static_cast<double>(x) * x;
  EXPECT_NEAR(sum / 30000, 0, 5 / std::sqrt(30000.));
  EXPECT_NEAR(squares / 30000, 1, 5 * std::sqrt(2 / 30000.));
}

}  // namespace
}  // namespace sparse_attention
