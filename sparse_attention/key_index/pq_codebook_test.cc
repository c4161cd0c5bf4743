#include "sparse_attention/key_index/pq_codebook.h"

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/k_means.h"

namespace sparse_attention {
namespace {

PqOptions Options(int64_t subvectors, int64_t bits, bool inner_product = false) {
  PqOptions options;
  options.subvectors = subvectors;
  options.bits = bits;
  options.inner_product = inner_product;
  return options;
}

// The keys that the codes stand for.
at::Tensor Reconstruction(const PqCodebook& codebook, const at::Tensor& keys) {
  const int64_t width = codebook.centroids().size(4);
  const at::Tensor index =
      codebook.codes().to(at::kLong).unsqueeze(-1).expand({-1, -1, -1, -1, width});
  return codebook.centroids().gather(3, index).transpose(2, 3).flatten(3).narrow(3, 0,
                                                                                 keys.size(3));
}

TEST(PqCodebook, ScoresAreProductsWithTheReconstruction) {
  RandomTensors random(1);
  const at::Tensor keys = random.Normal({2, 2, 200, 8}), q = random.Normal({2, 4, 3, 8});
  for (int64_t bits : {3, 9}) {  // codes of one byte and of four
    const PqCodebook codebook(keys, Options(2, bits));
    const at::Tensor expected =
        at::matmul(q, Reconstruction(codebook, keys).repeat_interleave(2, 1).transpose(2, 3));
    EXPECT_THAT(codebook.Scores(q), TensorNear(expected, {.absolute_eps = 64}));
  }
}

TEST(PqCodebook, MoreBitsAndSubvectorsReconstructBetter) {
  const at::Tensor keys = RandomTensors(2).Normal({1, 2, 500, 8});
  const double coarse = PqCodebook(keys, Options(1, 3)).Errors(keys).relative;
  const double more_bits = PqCodebook(keys, Options(1, 6)).Errors(keys).relative;
  const double more_parts = PqCodebook(keys, Options(4, 6)).Errors(keys).relative;
  EXPECT_GT(coarse, more_bits);
  EXPECT_GT(more_bits, more_parts);
  EXPECT_LT(more_parts, 0.35);
}

TEST(PqCodebook, ErrorsAreThoseOfTheReconstruction) {
  const at::Tensor keys = RandomTensors(3).Normal({1, 2, 100, 8});
  const PqCodebook codebook(keys, Options(2, 4));
  const ReconstructionErrors errors = codebook.Errors(keys);
  const at::Tensor difference = Reconstruction(codebook, keys).sub(keys).to(at::kDouble);
  EXPECT_NEAR(errors.mse, difference.square().mean().item<double>(), 1e-6);
  EXPECT_NEAR(errors.l2, difference.norm().item<double>(), 1e-4);
  EXPECT_NEAR(errors.relative, errors.l2 / keys.norm().item<double>(), 1e-6);
}

TEST(PqCodebook, NewKeysGetTheNearestCentroid) {
  RandomTensors random(4);
  const at::Tensor keys = random.Normal({2, 2, 150, 8});
  for (bool inner_product : {false, true}) {
    const PqCodebook whole(keys.narrow(2, 0, 100), Options(2, 4, inner_product));
    PqCodebook at_once = whole, one_by_one = whole, cut = whole;
    at_once.Extend(keys, 100);
    for (int64_t n = 101; n <= 150; ++n) one_by_one.Extend(keys.narrow(2, 0, n), n - 1);
    cut.Extend(random.Normal({2, 2, 130, 8}), 100);
    cut.Extend(keys.narrow(2, 0, 100), 100);
    cut.Extend(keys, 100);
    EXPECT_TRUE(at_once.codes().equal(one_by_one.codes()));
    EXPECT_TRUE(at_once.codes().equal(cut.codes()));
    EXPECT_TRUE(at_once.centroids().equal(whole.centroids()));
    EXPECT_TRUE(at_once.codes().narrow(3, 0, 100).equal(whole.codes()));
    EXPECT_EQ(at_once.prefix(), 100);
  }
}

TEST(PqCodebook, IsTrainedAgainWhenTheKeysHaveDoubled) {
  const at::Tensor keys = RandomTensors(5).Normal({1, 2, 201, 8});
  PqCodebook codebook(keys.narrow(2, 0, 100), Options(2, 4));
  codebook.Extend(keys.narrow(2, 0, 200), 100);
  EXPECT_EQ(codebook.prefix(), 100);
  codebook.Extend(keys, 200);
  EXPECT_EQ(codebook.prefix(), 201);
  EXPECT_TRUE(codebook.codes().equal(PqCodebook(keys, Options(2, 4)).codes()));
}

TEST(PqCodebook, ASequenceDoesNotDependOnItsBatchNorOnTheSeedOfLibTorch) {
  const at::Tensor keys = RandomTensors(6).Normal({2, 2, 100, 8});
  at::manual_seed(1);
  const PqCodebook both(keys, Options(2, 4));
  at::manual_seed(2);
  const PqCodebook second(keys.narrow(0, 1, 1), Options(2, 4));
  EXPECT_TRUE(both.codes().narrow(0, 1, 1).equal(second.codes()));
  PqOptions other = Options(2, 4);
  other.seed = 7;
  EXPECT_FALSE(PqCodebook(keys, other).codes().equal(both.codes()));
  other = Options(2, 4);
  other.layer = 1;
  EXPECT_FALSE(PqCodebook(keys, other).codes().equal(both.codes()));
}

TEST(PqCodebook, AnyNumberOfSubvectors) {
  RandomTensors random(7);
  const at::Tensor keys = random.Normal({1, 1, 60, 7}), q = random.Normal({1, 1, 1, 7});
  for (int64_t subvectors : {1, 2, 3, 4, 7, 9}) {
    const PqCodebook codebook(keys, Options(subvectors, 6));
    EXPECT_EQ(codebook.codes().size(2), std::min<int64_t>(7, subvectors));
    EXPECT_LT(codebook.Errors(keys).relative, 0.45) << subvectors;
    EXPECT_EQ(codebook.Scores(q).size(3), 60);
  }
}

TEST(PqCodebook, KeysThatAreNotFiniteMoveNoCentroid) {
  at::Tensor keys = RandomTensors(8).Normal({1, 2, 100, 8});
  keys[0][0][3].fill_(NAN);
  keys[0][1][5][2].fill_(INFINITY);
  for (bool inner_product : {false, true}) {
    const PqCodebook codebook(keys, Options(2, 4, inner_product));
    EXPECT_TRUE(codebook.centroids().isfinite().all().item<bool>());
  }
}

// Python hub: a new key gets 0 as its added channel, as if it were as long as the longest; here it
// gets what keys of its length got in training.
TEST(PqCodebook, ANewKeyIsTreatedLikeAnOldOneByTheInnerProductMetric) {
  const at::Tensor keys = RandomTensors(9).Normal({1, 1, 200, 8});
  PqCodebook codebook(keys, Options(1, 5, true));
  const at::Tensor codes = codebook.codes().clone();
  codebook.Extend(at::cat({keys, keys}, 2), 200);
  EXPECT_TRUE(codebook.codes().narrow(3, 200, 200).equal(codes));
  const at::Tensor like_hub = at::cat({keys, at::zeros({1, 1, 200, 1})}, -1);
  const at::Tensor hub_codes =
      NearestCentroids(like_hub.flatten(0, 1), codebook.centroids().flatten(0, 2));
  EXPECT_FALSE(hub_codes.equal(codes.view({1, 200}).to(at::kLong)));
}

TEST(NormChannel, MakesAllVectorsEquallyLong) {
  const at::Tensor x = RandomTensors(10).Normal({2, 3, 20, 5});
  const at::Tensor phi = SquaredRadius(x);
  const at::Tensor squares = AddNormChannel(x, phi).square().sum(-1, true);
  EXPECT_THAT(squares, TensorNear(phi.expand_as(squares).contiguous(), {.relative_eps = 16}));
}

TEST(NormChannel, OfAVectorBeyondTheOthersIsZero) {
  const at::Tensor x = RandomTensors(11).Normal({1, 1, 20, 5});
  const at::Tensor longer = AddNormChannel(x.mul(100), SquaredRadius(x));
  EXPECT_TRUE(longer.select(3, 5).eq(0).all().item<bool>());
}

}  // namespace
}  // namespace sparse_attention
