#include "sparse_attention/key_index/pseudo_quantize.h"

#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/quantize_core.h"

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

// The function without LibTorch gives the same bits, also of what is not finite.
TEST(QuantizeVector, IsThatOfTensors) {
  RandomTensors random(9);
  for (int64_t bits : {1, 2, 4, 8, 15, 16}) {
    for (int64_t n : {1, 2, 7, 16, 100}) {
      at::Tensor x = random.Normal({20, n});
      x[1].fill_(3);
      x[2][0].fill_(NAN);
      x[3][n - 1].fill_(INFINITY);
      x[4][0].fill_(-INFINITY);
      x[5].mul_(1e-40);
      x[6].mul_(1e30);
      x[7] = x[7].mul(4).round();
      const QuantizedVectors expected = QuantizeVectors(x, bits);
      const at::Tensor codes = expected.codes.nan_to_num(0, 0, 0);
      for (int64_t row = 0; row < 20; ++row) {
        const at::Tensor vector = x[row].contiguous();
        std::vector<uint16_t> got(n);
        const cpu::QuantizedRange range =
            cpu::QuantizeVector(vector.const_data_ptr<float>(), n, bits, got.data());
        const float scale = expected.scale[row].item<float>(),
                    low = expected.low[row].item<float>();
        EXPECT_TRUE(range.scale == scale || (std::isnan(range.scale) && std::isnan(scale))) << row;
        EXPECT_TRUE(range.low == low || (std::isnan(range.low) && std::isnan(low))) << row;
        for (int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(got[i], codes[row][i].item<float>()) << "row " << row << ", bits " << bits;
        }
      }
    }
  }
}

TEST(EncodeLabels, TakesChannelsOfRows) {
  const at::Tensor keys = RandomTensors(10).Normal({5, 9}, at::kBFloat16);
  const int64_t channels[] = {7, 0, 3};
  const cpu::KeyRows rows = {keys.const_data_ptr(), cpu::Element::kBFloat16, 18, 5};
  float scratch[3], scale[5], low[5];
  uint8_t codes[20];
  cpu::EncodeLabels(rows, channels, 3, 4, scratch, codes, 4, scale, low);
  const at::Tensor index = at::tensor({7, 0, 3}).to(at::kLong);
  const QuantizedVectors expected = QuantizeVectors(keys.index_select(1, index), 4);
  for (int64_t j = 0; j < 5; ++j) {
    EXPECT_EQ(scale[j], expected.scale[j].item<float>());
    EXPECT_EQ(low[j], expected.low[j].item<float>());
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(codes[4 * j + i], expected.codes[j][i].item<float>());
    }
  }
}

}  // namespace
}  // namespace sparse_attention
