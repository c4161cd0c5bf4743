#include "sparse_attention/key_index/growing_tensor.h"

#include <ATen/ops/cat.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"

namespace sparse_attention {
namespace {

TEST(GrowingTensor, HoldsWhatWasSet) {
  RandomTensors random(1);
  GrowingTensor grown(1);
  at::Tensor expected = random.Normal({3, 0, 2});
  grown.Set(0, expected);
  for (int step = 0; step < 200; ++step) {
    const int64_t begin = random.Chance(0.8) ? grown.size() : random.Integer(0, grown.size());
    const at::Tensor more = random.Normal({3, random.Integer(0, 30), 2});
    grown.Set(begin, more);
    expected = at::cat({expected.narrow(1, 0, begin), more}, 1);
    ASSERT_EQ(grown.size(), expected.size(1));
    ASSERT_TRUE(grown.view().equal(expected)) << "step " << step;
  }
}

TEST(GrowingTensor, AppendingDoesNotCopyAtEveryStep) {
  RandomTensors random(1);
  GrowingTensor grown(0);
  grown.Set(0, random.Normal({4096, 2}));
  int moves = 0;
  const void* place = grown.view().const_data_ptr();
  for (int step = 0; step < 1000; ++step) {
    grown.Set(grown.size(), random.Normal({1, 2}));
    if (grown.view().const_data_ptr() != place) ++moves;
    place = grown.view().const_data_ptr();
  }
  EXPECT_LE(moves, 2);
}

}  // namespace
}  // namespace sparse_attention
