#include "sparse_attention/key_index/k_means.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

KMeansOptions Options(int64_t clusters, int64_t iterations = 20, uint64_t seed = 1) {
  KMeansOptions options;
  options.clusters = clusters;
  options.iterations = iterations;
  options.stream = [seed](int64_t group) {
    return PhiloxStream(seed, RandomPurpose::kTest, 0, static_cast<uint32_t>(group), 0);
  };
  return options;
}

double Inertia(const at::Tensor& x, const KMeansResult& result) {
  const at::Tensor index = result.assignments.unsqueeze(-1).expand_as(x);
  return x.sub(result.centroids.gather(1, index)).square().sum().item<double>();
}

// Eight tight clouds a group.
at::Tensor Clouds(RandomTensors& random, int64_t groups, int64_t per_cloud) {
  const at::Tensor centres = random.Normal({groups, 8, 1, 5}, at::kFloat, 10);
  return centres.add(random.Normal({groups, 8, per_cloud, 5}, at::kFloat, 0.01)).flatten(1, 2);
}

TEST(KMeans, FindsSeparateClouds) {
  RandomTensors random(1);
  const at::Tensor x = Clouds(random, 3, 20);
  const KMeansResult result = KMeans(x, at::Tensor(), Options(8));
  EXPECT_LT(Inertia(x, result), 3 * 160 * 5 * 0.01 * 0.01 * 1.3);
}

TEST(KMeans, CentresAreMeansAndAssignmentsAreNearest) {
  RandomTensors random(2);
  const at::Tensor x = random.Normal({2, 300, 4});
  const KMeansResult result = KMeans(x, at::Tensor(), Options(10, 200));
  EXPECT_TRUE(NearestCentroids(x, result.centroids).equal(result.assignments));
  for (int64_t g = 0; g < 2; ++g) {
    for (int64_t c = 0; c < 10; ++c) {
      const at::Tensor members = x[g].index({result.assignments[g].eq(c)});
      ASSERT_GT(members.size(0), 0);
      EXPECT_THAT(result.centroids[g][c], TensorNear(members.mean(0), {.absolute_eps = 64}));
    }
  }
}

TEST(KMeans, IterationsImproveAndAPlusPlusStartIsBetterThanAnyStart) {
  RandomTensors random(3);
  const at::Tensor x = Clouds(random, 8, 30);
  double plus_plus = 0, hub = 0;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const double one = Inertia(x, KMeans(x, at::Tensor(), Options(8, 1, seed)));
    const double many = Inertia(x, KMeans(x, at::Tensor(), Options(8, 20, seed)));
    EXPECT_LE(many, one * 1.0001);
    plus_plus += many;
    KMeansOptions like_hub = Options(8, 20);
    like_hub.like_hub = true;
    at::manual_seed(seed);
    hub += Inertia(x, KMeans(x, at::Tensor(), like_hub));
  }
  EXPECT_LT(plus_plus, hub / 2);
}

TEST(KMeans, AGroupDoesNotDependOnOthers) {
  RandomTensors random(4);
  const at::Tensor x = random.Normal({3, 100, 4});
  const KMeansResult all = KMeans(x, at::Tensor(), Options(7));
  for (int64_t g = 0; g < 3; ++g) {
    KMeansOptions options = Options(7);
    options.stream = [&, inner = options.stream](int64_t) { return inner(g); };
    const KMeansResult alone = KMeans(x.narrow(0, g, 1), at::Tensor(), options);
    EXPECT_TRUE(alone.assignments[0].equal(all.assignments[g]));
    EXPECT_THAT(alone.centroids[0], TensorNear(all.centroids[g], {.absolute_eps = 16}));
  }
}

TEST(KMeans, VectorsThatDoNotCountMoveNothing) {
  RandomTensors random(5);
  const at::Tensor x = Clouds(random, 1, 20);
  const at::Tensor far = random.Normal({1, 30, 5}).add(1000);
  const at::Tensor counted = at::arange(190).lt(160).unsqueeze(0);
  const KMeansResult result = KMeans(at::cat({x, far}, 1), counted, Options(8));
  EXPECT_TRUE(result.centroids.lt(500).all().item<bool>());
  EXPECT_EQ(result.assignments.size(1), 190);
}

TEST(KMeans, FewerDistinctVectorsThanClusters) {
  const at::Tensor x = at::tensor({1.f, 1.f, 2.f, 2.f, 2.f}).view({1, 5, 1});
  const KMeansResult result = KMeans(x, at::Tensor(), Options(4));
  // Clusters that are left empty keep their centres.
  EXPECT_TRUE(result.centroids.eq(1).logical_or(result.centroids.eq(2)).all().item<bool>());
  EXPECT_EQ(result.centroids.eq(1).sum().item<int64_t>(), 1);  // the last vector is taken again
  EXPECT_EQ(Inertia(x, result), 0);
}

TEST(NearestCentroids, TheLowestOfEqualOnes) {
  const at::Tensor centroids = at::tensor({5.f, 1.f, 3.f, 1.f}).view({1, 4, 1});
  const at::Tensor x = at::tensor({1.f, 2.f, 4.f, 9.f}).view({1, 4, 1});
  EXPECT_TRUE(NearestCentroids(x, centroids)[0].equal(at::tensor({1, 1, 0, 0}).to(at::kLong)));
}

// What the hub does and what is done here instead: codes of the centres before the last move.
TEST(KMeans, TheHubsCodesLagBehindItsCentres) {
  RandomTensors random(6);
  const at::Tensor x = random.Normal({1, 400, 4});
  KMeansOptions like_hub = Options(16, 2);
  like_hub.like_hub = true;
  at::manual_seed(1);
  const KMeansResult hub = KMeans(x, at::Tensor(), like_hub);
  EXPECT_FALSE(NearestCentroids(x, hub.centroids).equal(hub.assignments));
  const KMeansResult ours = KMeans(x, at::Tensor(), Options(16, 2));
  EXPECT_TRUE(NearestCentroids(x, ours.centroids).equal(ours.assignments));
}

}  // namespace
}  // namespace sparse_attention
