#include "sparse_attention/key_index/lookups.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"

namespace sparse_attention {
namespace {

at::Tensor RandomCodes(RandomTensors& random, at::IntArrayRef shape, int64_t entries,
                       at::ScalarType type) {
  return random.Uniform(shape, 0, static_cast<double>(entries)).floor().to(type);
}

// Whole numbers, so that the order of a sum does not matter.
TEST(AddLookups, SumsTheNamedEntries) {
  RandomTensors random(1);
  for (at::ScalarType type : {at::kByte, at::kShort, at::kInt, at::kLong}) {
    const at::Tensor tables = random.Uniform({2, 3, 4, 5, 100}, -50, 50).floor();
    const at::Tensor codes = RandomCodes(random, {2, 3, 5, 2500}, 100, type);
    at::Tensor sums = at::zeros({2, 3, 4, 2500});
    AddLookups(tables, codes, sums);
    AddLookups(tables, codes, sums);
    for (int i = 0; i < 500; ++i) {
      const int64_t b = random.Integer(0, 1), g = random.Integer(0, 2), r = random.Integer(0, 3);
      const int64_t j = random.Integer(0, 2499);
      float expected = 0;
      for (int64_t t = 0; t < 5; ++t) {
        expected += 2 * tables[b][g][r][t][codes[b][g][t][j].item<int64_t>()].item<float>();
      }
      ASSERT_EQ(sums[b][g][r][j].item<float>(), expected) << toString(type);
    }
  }
}

TEST(AddLookups, StridedCodesGiveTheSameSums) {
  RandomTensors random(2);
  const at::Tensor tables = random.Normal({1, 2, 3, 4, 16});
  const at::Tensor longer = RandomCodes(random, {1, 2, 4, 90}, 16, at::kByte);
  const at::Tensor codes = longer.narrow(3, 0, 70);  // a cut of a longer row
  const at::Tensor by_key = codes.transpose(2, 3).contiguous().transpose(2, 3);  // the device's way
  at::Tensor a = at::zeros({1, 2, 3, 70}), b = at::zeros({1, 2, 3, 70}), c = a.clone();
  AddLookups(tables, codes.contiguous(), a);
  AddLookups(tables, codes, b);
  AddLookups(tables, by_key, c);
  EXPECT_TRUE(a.equal(b));
  EXPECT_TRUE(a.equal(c));
}

TEST(AddLookups, NothingToDo) {
  at::Tensor none = at::zeros({1, 2, 3, 0});
  AddLookups(at::zeros({1, 2, 3, 4, 16}), at::zeros({1, 2, 4, 0}, at::kByte), none);
  at::Tensor untouched = at::zeros({1, 2, 3, 7});
  AddLookups(at::zeros({1, 2, 3, 0, 16}), at::zeros({1, 2, 0, 7}, at::kByte), untouched);
  EXPECT_EQ(untouched.sum().item<float>(), 0);
}

}  // namespace
}  // namespace sparse_attention
