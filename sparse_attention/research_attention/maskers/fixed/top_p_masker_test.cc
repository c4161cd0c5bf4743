#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

constexpr ThresholdRule kGreater = ThresholdRule::kGreater;
constexpr ThresholdRule kAtLeast = ThresholdRule::kAtLeast;

float Threshold(std::vector<float> row, double top_p, ThresholdRule rule = kGreater) {
  const at::Tensor result = TopPThresholds(at::tensor(row), top_p, rule);
  EXPECT_EQ(result.sizes(), at::IntArrayRef({1}));
  return result.item<float>();
}

TEST(TopPThresholds, CutsWhereTheRunningShareExceedsTopP) {
  EXPECT_FLOAT_EQ(Threshold({.1f, .3f, .2f, .4f, .1f}, .8), .2f);
  EXPECT_FLOAT_EQ(Threshold({.2f, .1f, .5f, .1f, .1f}, .8), .1f);
  EXPECT_FLOAT_EQ(Threshold({.1f, .3f, .2f}, .6), .2f);
  EXPECT_FLOAT_EQ(Threshold({1, 1, 1, 1}, .6), 1);
  EXPECT_FLOAT_EQ(Threshold({.1f, .3f, .2f}, 1.0), .1f);
  EXPECT_FLOAT_EQ(Threshold({.1f, .3f, .2f}, 0.0), .3f);
}

TEST(TopPThresholds, TheShareIsOfTheRowsOwnTotal) {
  // Shares .625, .875 and 1 of the total 0.8: not .5, .7 and .8.
  for (ThresholdRule rule : {kGreater, kAtLeast}) {
    EXPECT_FLOAT_EQ(Threshold({.2f, .1f, .5f}, .6, rule), .5f);
    EXPECT_FLOAT_EQ(Threshold({.2f, .1f, .5f}, .8, rule), .2f);
  }
}

TEST(TopPThresholds, TheRulesDifferWhereAPartialSumEqualsTopP) {
  const std::vector<float> dyadic = {.5f, .25f, .125f, .125f};  // shares .5, .75, .875, 1
  const auto cuts = [&](ThresholdRule rule) {
    std::vector<float> cut;
    for (double top_p : {0.0, 0.49, 0.5, 0.51, 0.75, 0.875, 1.0}) {
      cut.push_back(Threshold(dyadic, top_p, rule));
    }
    return cut;
  };
  EXPECT_THAT(cuts(kGreater), ::testing::ElementsAre(.5, .5, .25, .25, .125, .125, .125));
  EXPECT_THAT(cuts(kAtLeast), ::testing::ElementsAre(.5, .5, .5, .25, .25, .125, .125));
}

TEST(TopPThresholds, TakesTensorsOfAnyRank) {
  const at::Tensor rows = at::tensor({4.f, 2.f, 1.f, 1.f, .1f, .3f, .2f, .4f}).view({2, 4});
  const at::Tensor expected = at::tensor({2.f, .3f}).view({2, 1});
  EXPECT_THAT(TopPThresholds(rows, .5, kGreater), TensorEquals(expected));
  for (const std::vector<int64_t>& lead :
       {std::vector<int64_t>{2, 1}, {1, 2, 1}, {1, 1, 2, 1}, {2, 1, 1, 1, 1}}) {
    std::vector<int64_t> shape = lead;
    shape.back() = 4;
    EXPECT_THAT(TopPThresholds(rows.view(shape), .5, kGreater), TensorEquals(expected.view(lead)));
  }
  const at::Tensor none = TopPThresholds(at::zeros({0, 3, 4}), .5, kGreater);
  EXPECT_EQ(none.sizes(), at::IntArrayRef({0, 3, 1}));
}

TEST(TopPThresholds, ARowMayHaveAShareOfItsOwn) {
  const at::Tensor rows = at::tensor({4.f, 2.f, 1.f, 1.f}).expand({3, 4});
  const at::Tensor shares = at::tensor({0., .6, .9}).view({3, 1});
  EXPECT_THAT(TopPThresholds(rows, shares, kGreater),
              TensorEquals(at::tensor({4.f, 2.f, 1.f}).view({3, 1})));
}

TEST(TopPThresholds, ARowWithOneEntryIsItsThreshold) {
  for (double top_p : {0.0, 0.5, 1.0}) EXPECT_EQ(Threshold({7}, top_p), 7);
}

// Float32 sums of a long row lose small shares: here each of 2^22 ones is 2.4e-7 of the total.
TEST(TopPThresholds, SumsInFloat64) {
  at::Tensor row = at::ones({1 << 22});
  row[0].fill_(float{1 << 24});
  row[1].fill_(2);
  // Shares: 0.8 for the first key alone, then 1 ulp of a float32 sum of 2^24 is 2.
  const double all = double{1 << 24} + (1 << 22);
  EXPECT_EQ(TopPThresholds(row, (double{1 << 24} + 1) / all, kGreater).item<float>(), 2);
  EXPECT_EQ(TopPThresholds(row, (double{1 << 24} + 2.5) / all, kGreater).item<float>(), 1);
}

// What the threshold keeps reaches the share, and without its smallest entry (ties apart) not.
TEST(TopPThresholds, KeepsTheFewestEntries) {
  RandomTensors random(11);
  for (int round = 0; round < 50; ++round) {
    const at::Tensor rows = random.Uniform({5, random.Integer(1, 40)});
    const double top_p = random.Real(0, 1);
    SCOPED_TRACE(top_p);
    const at::Tensor threshold = TopPThresholds(rows, top_p, kAtLeast);
    const at::Tensor total = rows.sum(-1, true, at::kDouble);
    const at::Tensor kept = rows.masked_fill(rows.lt(threshold), 0).sum(-1, true, at::kDouble);
    const at::Tensor above = rows.masked_fill(rows.le(threshold), 0).sum(-1, true, at::kDouble);
    EXPECT_TRUE(kept.div(total).ge(top_p - 1e-12).all().item<bool>());
    EXPECT_TRUE(above.div(total).lt(top_p + 1e-12).all().item<bool>());
  }
}

}  // namespace
}  // namespace sparse_attention
