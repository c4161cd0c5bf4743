#include "sparse_attention/key_index/lsh_tables.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numbers>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/append_testing.h"
#include "sparse_attention/key_index/gaussian_planes.h"
#include "sparse_attention/key_index/tensor_array.h"

namespace sparse_attention {
namespace {

TEST(HashBuckets, NameTheSideOfEachPlane) {
  RandomTensors random(1);
  const at::Tensor x = random.Normal({1, 2, 9, 4}), planes = random.Normal({3, 5, 4});
  for (BitOrder order : {BitOrder::kLowestFirst, BitOrder::kHighestFirst}) {
    const at::Tensor buckets = HashBuckets(x, planes, {.order = order});
    ASSERT_EQ(buckets.sizes(), at::IntArrayRef({1, 2, 3, 9}));
    for (int64_t table = 0; table < 3; ++table) {
      for (int64_t j = 0; j < 9; ++j) {
        int64_t expected = 0;
        for (int64_t bit = 0; bit < 5; ++bit) {
          const bool one = planes[table][bit].dot(x[0][1][j]).item<float>() > 0;
          expected |= int64_t{one} << (order == BitOrder::kLowestFirst ? bit : 4 - bit);
        }
        EXPECT_EQ(buckets[0][1][table][j].item<int64_t>(), expected);
      }
    }
  }
}

TEST(HashBuckets, AVectorInAPlane) {
  const at::Tensor zero = at::zeros({1, 1, 1, 4});
  const at::Tensor planes = RandomTensors(1).Normal({1, 3, 4});
  EXPECT_EQ(HashBuckets(zero, planes, {}).item<int64_t>(), 0);
  EXPECT_EQ(HashBuckets(zero, planes, {.zero_is_one = true}).item<int64_t>(), 7);
}

TEST(HashBuckets, TakeTheNarrowestType) {
  const at::Tensor x = RandomTensors(1).Normal({1, 1, 50, 4});
  const auto type = [&](int64_t bits) {
    return HashBuckets(x, TensorOf(GaussianPlanes(1, 0, 2, bits, 4)), {}).scalar_type();
  };
  EXPECT_EQ(type(8), at::kByte);
  EXPECT_EQ(type(9), at::kShort);
  EXPECT_EQ(type(15), at::kShort);
  EXPECT_EQ(type(16), at::kInt);
  EXPECT_EQ(type(32), at::kLong);
  EXPECT_EQ(type(64), at::kLong);
}

TEST(ShareABucket, ComparesTableByTable) {
  RandomTensors random(2);
  for (at::ScalarType type : {at::kByte, at::kShort, at::kInt, at::kLong}) {
    const at::Tensor q = random.Uniform({2, 4, 3, 2}, 0, 9).floor().to(type);
    const at::Tensor k = random.Uniform({2, 2, 3, 1500}, 0, 9).floor().to(type);
    const at::Tensor shared = ShareABucket(q, k);
    const at::Tensor expected = q.unsqueeze(4).eq(k.repeat_interleave(2, 1).unsqueeze(3)).any(2);
    EXPECT_TRUE(shared.equal(expected));
    // The way of devices.
    EXPECT_TRUE(ShareABucket(q, k.transpose(2, 3).contiguous().transpose(2, 3)).equal(expected));
  }
}

TEST(CollisionProbability, ByHand) {
  const auto p = [](double cosine, int64_t bits, int64_t tables) {
    return CollisionProbability(at::tensor({cosine}, at::kDouble), bits, tables).item<double>();
  };
  EXPECT_EQ(p(1, 10, 75), 1);
  EXPECT_EQ(p(1.5, 10, 75), 1);
  EXPECT_EQ(p(-1, 10, 75), 0);
  EXPECT_DOUBLE_EQ(p(0, 1, 1), 0.5);
  EXPECT_DOUBLE_EQ(p(0, 3, 2), 1 - std::pow(1 - 0.125, 2));
  EXPECT_DOUBLE_EQ(p(0.5, 2, 1), std::pow(2. / 3, 2));
  EXPECT_NEAR(p(-0.99, 10, 75) / (75 * std::pow(1 - std::acos(-0.99) / std::numbers::pi, 10)), 1,
              1e-6);  // no loss where it is tiny
}

// Hashes of 100,000 tables: how often vectors at an angle meet, inside the exact binomial band that
// holds with probability 1 - 1e-6.
TEST(HashBuckets, VectorsMeetAsOftenAsTheFormulaSays) {
  constexpr int64_t kTables = 100000;
  for (double cosine : {-0.5, 0., 0.3, 0.8, 0.97}) {
    const at::Tensor pair =
        at::tensor({1., 0., 0., cosine, std::sqrt(1 - cosine * cosine), 0.}).to(at::kFloat);
    for (int64_t bits : {1, 3, 8}) {
      const at::Tensor buckets = HashBuckets(
          pair.view({1, 1, 2, 3}),
          TensorOf(GaussianPlanes(static_cast<uint64_t>(bits), 0, kTables, bits, 3)), {});
      const int64_t met = buckets.select(3, 0).eq(buckets.select(3, 1)).sum().item<int64_t>();
      const double p = CollisionProbability(at::tensor({cosine}), bits, 1).item<double>();
      const boost::math::binomial binomial(kTables, p);
      EXPECT_GE(met, boost::math::quantile(binomial, 0.5e-6)) << cosine << ", " << bits;
      EXPECT_LE(met, boost::math::quantile(boost::math::complement(binomial, 0.5e-6)))
          << cosine << ", " << bits;
    }
  }
}

TEST(SoftBuckets, AreASoftmaxOverCorners) {
  const at::Tensor a = RandomTensors(3).Normal({2, 4});
  const at::Tensor soft = SoftBuckets(a);
  ASSERT_EQ(soft.sizes(), at::IntArrayRef({2, 16}));
  at::Tensor logits = at::zeros({2, 16});
  for (int64_t corner = 0; corner < 16; ++corner) {
    for (int64_t bit = 0; bit < 4; ++bit) {
      const double sign = corner >> (3 - bit) & 1 ? 1 : -1;
      logits.select(1, corner).add_(a.select(1, bit), sign);
    }
  }
  EXPECT_THAT(soft, TensorNear(logits.softmax(-1), {.absolute_eps = 4}));
}

TEST(SoftBuckets, SurviveSharpQueries) {
  const at::Tensor soft = SoftBuckets(at::tensor({500.f, -500.f}).view({1, 2}));
  EXPECT_THAT(soft[0], TensorEquals(at::tensor({0.f, 0.f, 1.f, 0.f})));
}

TEST(LshTables, AppendsEqualAFreshBuild) {
  const at::Tensor planes = TensorOf(GaussianPlanes(1, 0, 6, 10, 8));
  ExpectAppendsEqualAFreshBuild(
      [&](const at::Tensor& keys) {
        LshTables tables(planes, {});
        tables.Set(0, keys);
        return tables;
      },
      [](LshTables& tables, const at::Tensor& keys, int64_t n) {
        tables.Set(n, keys.narrow(2, n, keys.size(2) - n));
      },
      [](const LshTables& tables) { return std::vector{tables.buckets()}; });
}

}  // namespace
}  // namespace sparse_attention
