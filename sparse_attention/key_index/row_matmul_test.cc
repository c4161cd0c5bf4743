#include "sparse_attention/key_index/row_matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/matmul.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

TEST(RowMatmul, IsTheProduct) {
  RandomTensors random(1);
  for (int64_t in : {1, 7, 64}) {
    for (int64_t out : {1, 31, 32, 33, 100}) {
      const at::Tensor x = random.Normal({2, 3, 9, in}), w = random.Normal({in, out});
      const at::Tensor expected = at::matmul(x.to(at::kDouble), w.to(at::kDouble));
      EXPECT_THAT(RowMatmul(x, w), TensorNear(expected.to(at::kFloat), {.absolute_eps = 256}));
    }
  }
}

// The order of additions is the order of the channels.
TEST(RowMatmul, AddsOneAfterTheOther) {
  RandomTensors random(2);
  const at::Tensor x = random.Normal({5, 300}), w = random.Normal({300, 40});
  const at::Tensor result = RowMatmul(x, w);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t column = 0; column < 40; ++column) {
      float sum = 0;
      for (int64_t i = 0; i < 300; ++i) {
        const float product = x[row][i].item<float>() * w[i][column].item<float>();
        sum += product;
      }
      ASSERT_EQ(result[row][column].item<float>(), sum) << row << ", " << column;
    }
  }
}

TEST(RowMatmul, ARowDoesNotDependOnOthers) {
  RandomTensors random(3);
  const at::Tensor x = random.Normal({2, 57, 24}, at::kBFloat16), w = random.Normal({24, 70});
  const at::Tensor whole = RowMatmul(x, w);
  for (int64_t begin = 0; begin < 57; begin += 5) {
    for (int64_t length : {1, 2, 3}) {
      if (begin + length > 57) continue;
      EXPECT_TRUE(RowMatmul(x.narrow(1, begin, length), w).equal(whole.narrow(1, begin, length)));
    }
  }
}

TEST(RowMatmul, NoRowsOrColumns) {
  RandomTensors random(4);
  EXPECT_EQ(RowMatmul(random.Normal({2, 0, 3}), random.Normal({3, 5})).sizes(),
            at::IntArrayRef({2, 0, 5}));
  EXPECT_EQ(RowMatmul(random.Normal({2, 4, 3}), random.Normal({3, 0})).sizes(),
            at::IntArrayRef({2, 4, 0}));
}

}  // namespace
}  // namespace sparse_attention
