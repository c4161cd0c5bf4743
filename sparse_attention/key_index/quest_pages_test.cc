#include "sparse_attention/key_index/quest_pages.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/tensor.h>

#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/append_testing.h"
#include "sparse_attention/key_index/pseudo_quantize.h"

namespace sparse_attention {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(QuestPages, BoundsByHand) {
  const at::Tensor keys = at::tensor({1.f, -2.f, 3.f, 0.f, -1.f, 5.f}).view({1, 1, 3, 2});
  const QuestPages pages(keys, 2, 16);
  ASSERT_EQ(pages.pages(), 2);
  EXPECT_THAT(pages.min(), TensorEquals(at::tensor({1.f, -2.f, -1.f, 5.f}).view({1, 1, 2, 2})));
  EXPECT_THAT(pages.max(), TensorEquals(at::tensor({3.f, 0.f, -1.f, 5.f}).view({1, 1, 2, 2})));
  // q = (2, -1): max(2, 6) + max(2, 0) = 8; -2 - 5 = -7
  const at::Tensor q = at::tensor({2.f, -1.f}).view({1, 1, 1, 2});
  EXPECT_THAT(pages.Scores(q), TensorEquals(at::tensor({8.f, -7.f}).view({1, 1, 1, 2})));
}

TEST(QuestPages, AScoreBoundsEveryProductOfItsPage) {
  for (int64_t page_size : {1, 3, 16, 100}) {
    RandomTensors random(static_cast<uint64_t>(page_size));
    const at::Tensor keys = random.Normal({2, 2, 75, 8}), q = random.Normal({2, 6, 3, 8});
    const at::Tensor scores = QuestPages(keys, page_size, 16).Scores(q);
    const at::Tensor products = at::matmul(q, keys.repeat_interleave(3, 1).transpose(2, 3));
    const at::Tensor bounds = scores.repeat_interleave(page_size, 3).narrow(3, 0, 75);
    EXPECT_TRUE(products.le(bounds.add(1e-4)).all().item<bool>());
    if (page_size == 1) {
      EXPECT_THAT(scores, TensorNear(products, {.absolute_eps = 64}));
    }
  }
}

TEST(QuestPages, AppendsEqualAFreshBuild) {
  for (int64_t page_size : {1, 7, 16}) {
    for (int64_t bits : {4, 16}) {
      ExpectAppendsEqualAFreshBuild(
          [&](const at::Tensor& keys) { return QuestPages(keys, page_size, bits); },
          [](QuestPages& pages, const at::Tensor& keys, int64_t n) { pages.Extend(keys, n); },
          [](const QuestPages& pages) {
            return std::vector{pages.min(), pages.max()};
          });
    }
  }
}

TEST(QuestPages, LabelBitsQuantiseTheBounds) {
  const at::Tensor keys = RandomTensors(1).Normal({1, 2, 40, 8});
  const QuestPages exact(keys, 8, 16), coarse(keys, 8, 3);
  EXPECT_TRUE(coarse.min().equal(PseudoQuantize(exact.min(), 3)));
  EXPECT_TRUE(coarse.max().equal(PseudoQuantize(exact.max(), 3)));
}

TEST(QuestPages, KeysThatAreNotFiniteTakeNoPart) {
  at::Tensor keys = RandomTensors(1).Normal({1, 1, 12, 4});
  const at::Tensor clean = keys.clone();
  keys.select(2, 1).fill_(NAN);
  keys.select(2, 2).select(2, 0).fill_(kInfinity);
  keys.narrow(2, 8, 4).fill_(-kInfinity);
  const QuestPages pages(keys, 4, 16);
  const at::Tensor rest = clean.index_select(2, at::tensor({0, 3}));
  EXPECT_THAT(pages.min().select(2, 0), TensorEquals(rest.amin(2)));
  EXPECT_THAT(pages.max().select(2, 0), TensorEquals(rest.amax(2)));
  EXPECT_TRUE(pages.min().select(2, 2).eq(0).all().item<bool>());
  EXPECT_TRUE(pages.Scores(RandomTensors(2).Normal({1, 1, 1, 4})).isfinite().all().item<bool>());
}

TEST(QuestPages, AnInfiniteQueryComponentGivesAnInfiniteScore) {
  const at::Tensor keys = RandomTensors(1).Normal({1, 1, 12, 4});
  at::Tensor q = RandomTensors(2).Normal({1, 1, 1, 4});
  q[0][0][0][1].fill_(kInfinity);
  EXPECT_TRUE(QuestPages(keys, 4, 16).Scores(q).isinf().all().item<bool>());
}

TEST(QuestPages, HalfPrecisionKeysGiveExactBounds) {
  const at::Tensor keys = RandomTensors(1).Normal({1, 2, 5000, 4}, at::kBFloat16);
  EXPECT_TRUE(QuestPages(keys, 16, 16).max().equal(QuestPages(keys.to(at::kFloat), 16, 16).max()));
}

}  // namespace
}  // namespace sparse_attention
