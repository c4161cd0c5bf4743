#include "sparse_attention/key_index/pseudo_quantize.h"

#include <ATen/ops/tensor.h>

#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

TEST(PseudoQuantize, ByHand) {
  const at::Tensor x = at::tensor({0.f, 1.f, 2.f, 3.f, 0.4f, 1.6f});
  EXPECT_THAT(PseudoQuantize(x, 2), TensorEquals(at::tensor({0.f, 1.f, 2.f, 3.f, 0.f, 2.f})));
  EXPECT_THAT(PseudoQuantize(x, 1), TensorEquals(at::tensor({0.f, 0.f, 3.f, 3.f, 0.f, 3.f})));
  // Half way: to the even code.
  EXPECT_THAT(PseudoQuantize(at::tensor({0.f, 0.5f, 1.5f, 3.f}), 2),
              TensorEquals(at::tensor({0.f, 0.f, 2.f, 3.f})));
}

TEST(PseudoQuantize, IsOffByHalfAStepAtMostAndKeepsTheEnds) {
  const at::Tensor x = RandomTensors(1).Normal({40, 16});
  const at::Tensor low = std::get<0>(x.min(-1, true)), high = std::get<0>(x.max(-1, true));
  for (int64_t bits : {1, 2, 4, 8, 15, 16}) {
    const QuantizedVectors q = QuantizeVectors(x, bits);
    const double levels = static_cast<double>((int64_t{1} << bits) - 1);
    EXPECT_TRUE(q.codes.ge(0).logical_and(q.codes.le(levels)).all().item<bool>());
    EXPECT_TRUE(q.codes.eq(q.codes.round()).all().item<bool>());
    const at::Tensor step = high.sub(low).div(levels);
    const at::Tensor error = PseudoQuantize(x, bits).sub(x).abs();
    EXPECT_TRUE(error.le(step.mul(0.5001).add(1e-6)).all().item<bool>()) << bits;
  }
}

TEST(PseudoQuantize, AConstantVectorIsKept) {
  const at::Tensor x = at::tensor({2.5f, 2.5f, 2.5f});
  EXPECT_THAT(PseudoQuantize(x, 4), TensorEquals(x));
}

TEST(PseudoQuantize, NanStaysInItsVector) {
  at::Tensor x = RandomTensors(1).Normal({3, 8});
  const at::Tensor clean = PseudoQuantize(x, 4);
  x[1][2].fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor result = PseudoQuantize(x, 4);
  EXPECT_TRUE(result[1].isnan().all().item<bool>());
  EXPECT_TRUE(result[0].equal(clean[0]) && result[2].equal(clean[2]));
}

}  // namespace
}  // namespace sparse_attention
