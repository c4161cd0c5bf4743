#include "sparse_attention/key_index/mips_transform.h"

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

TEST(MipsTransform, KeysAndQueriesLieOnTheUnitSphere) {
  RandomTensors random(1);
  const at::Tensor keys = random.Normal({2, 2, 5000, 8}), q = random.Normal({2, 4, 3, 8});
  for (bool centred : {true, false}) {
    for (bool like_hub : {true, false}) {
      const MipsTransform transform = MipsTransform::Fit(keys, centred, like_hub);
      const at::Tensor k_norms = at::linalg_vector_norm(transform.Keys(keys), 2, {-1});
      EXPECT_THAT(k_norms, TensorNear(at::ones_like(k_norms), {.absolute_eps = 64}));
      const at::Tensor q_norms = at::linalg_vector_norm(transform.Queries(q), 2, {-1});
      EXPECT_THAT(q_norms, TensorNear(at::ones_like(q_norms), {.absolute_eps = 64}));
      EXPECT_TRUE(transform.Holds(keys).all().item<bool>());
    }
  }
}

TEST(MipsTransform, AnglesFollowInnerProducts) {
  RandomTensors random(2);
  const at::Tensor keys = random.Normal({1, 2, 50, 8}), q = random.Normal({1, 4, 1, 8});
  const MipsTransform transform = MipsTransform::Fit(keys, true, false);
  const at::Tensor cosines = at::matmul(
      transform.Queries(q), transform.Keys(keys).repeat_interleave(2, 1).transpose(2, 3));
  const at::Tensor products = at::matmul(q, keys.repeat_interleave(2, 1).transpose(2, 3));
  EXPECT_TRUE(cosines.argsort(-1, false).equal(products.argsort(-1, false)));
}

TEST(MipsTransform, CentreIsTheMeanAndTheRadiusTheLargestDistance) {
  const at::Tensor keys = RandomTensors(3).Normal({2, 2, 40, 8}).add(3);
  const MipsTransform transform = MipsTransform::Fit(keys, true, false);
  EXPECT_THAT(transform.centre, TensorNear(keys.mean(2, true), {.absolute_eps = 64}));
  const at::Tensor distances = at::linalg_vector_norm(keys.sub(transform.centre), 2, {-1}, true);
  EXPECT_THAT(transform.radius, TensorNear(distances.amax(2, true), {.relative_eps = 16}));
  const MipsTransform global = MipsTransform::Fit(keys, true, true);
  EXPECT_TRUE(global.radius.eq(transform.radius.max()).all().item<bool>());
  EXPECT_TRUE(MipsTransform::Fit(keys, false, false).centre.eq(0).all().item<bool>());
}

TEST(MipsTransform, HoldsKeysWithinTheRadiusOnly) {
  const at::Tensor keys = RandomTensors(4).Normal({1, 2, 40, 8});
  const MipsTransform transform = MipsTransform::Fit(keys, true, false);
  EXPECT_TRUE(transform.Holds(keys.mul(0.5)).all().item<bool>());
  at::Tensor beyond = keys.clone();
  beyond.select(1, 1).mul_(2);
  const at::Tensor holds = transform.Holds(beyond);
  EXPECT_TRUE(holds[0][0].item<bool>());  // each head by itself
  EXPECT_FALSE(holds[0][1].item<bool>());
}

TEST(MipsTransform, KeysThatAreNotFiniteTakeNoPart) {
  at::Tensor keys = RandomTensors(5).Normal({1, 2, 40, 8});
  const MipsTransform clean = MipsTransform::Fit(keys.narrow(2, 0, 38), true, false);
  keys.select(2, 38).fill_(NAN);
  keys.select(2, 39).fill_(-INFINITY);
  const MipsTransform transform = MipsTransform::Fit(keys, true, false);
  EXPECT_THAT(transform.centre, TensorNear(clean.centre, {.absolute_eps = 16}));
  EXPECT_THAT(transform.radius, TensorNear(clean.radius, {.relative_eps = 16}));
  EXPECT_TRUE(transform.Holds(keys).all().item<bool>());
}

TEST(MipsTransform, DegenerateKeysAndQueries) {
  const at::Tensor same = at::ones({1, 1, 4, 8});
  const MipsTransform transform = MipsTransform::Fit(same, true, false);
  EXPECT_TRUE(transform.Keys(same).isfinite().all().item<bool>());
  const MipsTransform like_hub = MipsTransform::Fit(same, true, true);
  EXPECT_TRUE(like_hub.Queries(same).eq(0).all().item<bool>());  // at the centre: no direction
  EXPECT_TRUE(transform.Queries(at::zeros({1, 1, 4, 8})).eq(0).all().item<bool>());
  EXPECT_TRUE(
      MipsTransform::Fit(at::zeros({1, 1, 0, 8}), true, true).radius.eq(1).all().item<bool>());
}

}  // namespace
}  // namespace sparse_attention
