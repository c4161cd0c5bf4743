#include "sparse_attention/key_index/sign_bits.h"

#include <ATen/ops/tensor.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"

namespace sparse_attention {
namespace {

TEST(PackBits, ByHand) {
  const at::Tensor bits = at::tensor({1, 0, 1, 1, 0, 0, 1}).to(at::kBool);
  EXPECT_TRUE(PackBits(bits, 3).equal(at::tensor({5, 1, 1}).to(at::kLong)));
  EXPECT_TRUE(
      PackBits(bits, 3, BitOrder::kHighestFirst).equal(at::tensor({5, 4, 4}).to(at::kLong)));
}

TEST(PackBits, EveryWidthAndOrder) {
  RandomTensors random(1);
  for (int64_t width = 1; width <= 64; ++width) {
    const at::Tensor bits = random.Uniform({5, 3 * width}).lt(0.5);
    for (BitOrder order : {BitOrder::kLowestFirst, BitOrder::kHighestFirst}) {
      const at::Tensor words = PackBits(bits, width, order);
      ASSERT_EQ(words.sizes(), at::IntArrayRef({5, 3}));
      for (int64_t row = 0; row < 5; ++row) {
        for (int64_t word = 0; word < 3; ++word) {
          uint64_t expected = 0;
          for (int64_t i = 0; i < width; ++i) {
            const int64_t exponent = order == BitOrder::kLowestFirst ? i : width - 1 - i;
            if (bits[row][word * width + i].item<bool>()) expected |= uint64_t{1} << exponent;
          }
          ASSERT_EQ(static_cast<uint64_t>(words[row][word].item<int64_t>()), expected)
              << "width " << width;
        }
      }
    }
  }
}

}  // namespace
}  // namespace sparse_attention
