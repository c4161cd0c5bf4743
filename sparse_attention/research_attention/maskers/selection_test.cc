#include "sparse_attention/research_attention/maskers/selection.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int64_t> Selected(const std::vector<float>& scores, const std::vector<bool>& eligible,
                              int64_t k) {
  at::Tensor flags = at::zeros({static_cast<int64_t>(eligible.size())}, at::kBool);
  for (size_t i = 0; i < eligible.size(); ++i) flags[i].fill_(bool{eligible[i]});
  const at::Tensor row = SelectTopK(at::tensor(scores), flags, k).nonzero().flatten();
  return {row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + row.numel()};
}

TEST(SelectTopK, HighestEligibleEntriesWin) {
  const std::vector<bool> all(5, true);
  EXPECT_THAT(Selected({3, 1, 5, 4, 2}, all, 2), ::testing::ElementsAre(2, 3));
  EXPECT_THAT(Selected({3, 1, 5, 4, 2}, {true, true, false, true, true}, 2),
              ::testing::ElementsAre(0, 3));
}

TEST(SelectTopK, OfTiesTheLowestIndexWins) {
  EXPECT_THAT(Selected(std::vector<float>(8, 1), std::vector<bool>(8, true), 3),
              ::testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(Selected({0, 2, 2, 3, 2}, {true, false, true, true, true}, 2),
              ::testing::ElementsAre(2, 3));
}

TEST(SelectTopK, TakesAllWhereThereAreNoMoreThanK) {
  const std::vector<bool> two = {false, true, false, true};
  for (int64_t k : {2, 3, 4, 100}) {
    EXPECT_THAT(Selected({9, 1, 9, 2}, two, k), ::testing::ElementsAre(1, 3)) << k;
  }
  EXPECT_THAT(Selected({9, 1, 9, 2}, two, 1), ::testing::ElementsAre(3));
  EXPECT_THAT(Selected({9, 1}, {false, false}, 1), ::testing::IsEmpty());
  EXPECT_THAT(Selected({9, 1}, {true, true}, 0), ::testing::IsEmpty());
  EXPECT_THAT(Selected({9, 1}, {true, true}, -1), ::testing::IsEmpty());
}

TEST(SelectTopK, NanAndInfinityAreHighestAndMinusInfinityIsAScore) {
  const std::vector<bool> all(4, true);
  EXPECT_THAT(Selected({1, NAN, kInfinity, 2}, all, 2), ::testing::ElementsAre(1, 2));
  EXPECT_THAT(Selected({1, kInfinity, NAN, 2}, all, 1), ::testing::ElementsAre(1));
  EXPECT_THAT(Selected({-kInfinity, -kInfinity, 1, -kInfinity}, {true, true, true, false}, 2),
              ::testing::ElementsAre(0, 2));
  EXPECT_THAT(Selected({NAN, kInfinity, 1, 2}, {false, false, true, true}, 1),
              ::testing::ElementsAre(3));
}

// Against sorting, with many ties.
TEST(SelectTopK, EqualsStableSorting) {
  RandomTensors random(3);
  for (int round = 0; round < 200; ++round) {
    const int64_t keys = random.Integer(1, 40);
    const int64_t k = random.Integer(0, keys + 2);
    std::vector<float> scores(keys);
    std::vector<bool> eligible(keys);
    std::vector<int64_t> order;
    for (int64_t i = 0; i < keys; ++i) {
      scores[i] = static_cast<float>(random.Integer(-3, 3));
      eligible[i] = random.Chance(0.7);
      if (eligible[i]) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    order.resize(std::min<size_t>(order.size(), k));
    std::sort(order.begin(), order.end());
    EXPECT_EQ(Selected(scores, eligible, k), order) << "round " << round;
  }
}

TEST(SelectTopK, RowsDoNotInfluenceOneAnother) {
  RandomTensors random(4);
  const at::Tensor scores = random.Normal({2, 3, 4, 20});
  const at::Tensor eligible = random.Uniform({2, 3, 4, 20}).lt(0.5);
  const at::Tensor all = SelectTopK(scores, eligible, 6);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < 3; ++h) {
      EXPECT_TRUE(all[b][h][1].equal(SelectTopK(scores[b][h][1], eligible[b][h][1], 6)));
    }
  }
}

TEST(EligibleKeys, AreVisibleAndNotHeld) {
  AttentionInputs in = RandomInputs({.heads = 1, .kv_heads = 1, .queries = 2, .keys = 4});
  const auto row = [&](const Mask& previous, int64_t query) {
    std::string text;
    const at::Tensor flags = EligibleKeys(in, previous)[0][0][query].contiguous();
    for (int64_t j = 0; j < 4; ++j) text += flags.data_ptr<bool>()[j] ? '1' : '.';
    return text;
  };
  EXPECT_EQ(row(Mask::MakeEmpty(in.mask_shape()), 0), "1111");
  EXPECT_EQ(row(Mask::MakeFull(in.mask_shape()), 0), "....");
  EXPECT_EQ(row(MaskFromRows({"1.s.", "...."}), 0), ".1.1");
  in.causal = true;
  EXPECT_EQ(row(MaskFromRows({"1.s.", "...."}), 0), ".1..");
  EXPECT_EQ(row(MaskFromRows({"1.s.", "...."}), 1), "1111");
}

// Four heads in two groups, one query, two keys.
TEST(ReduceGroup, EligibleEntriesTakePart) {
  const at::Tensor scores =
      at::tensor({1.f, 5.f, 3.f, 2.f, -4.f, 0.f, -6.f, 8.f}).view({1, 4, 1, 2});
  const at::Tensor all = at::ones({1, 4, 1, 2}, at::kBool);
  const auto reduced = [&](GroupReduce reduce, const at::Tensor& eligible) {
    return ReduceGroup(scores, eligible, 2, reduce).flatten();
  };
  EXPECT_THAT(reduced(GroupReduce::kMax, all), TensorEquals(at::tensor({3.f, 5.f, -4.f, 8.f})));
  EXPECT_THAT(reduced(GroupReduce::kMean, all), TensorEquals(at::tensor({2.f, 3.5f, -5.f, 4.f})));
  EXPECT_THAT(reduced(GroupReduce::kSum, all), TensorEquals(at::tensor({4.f, 7.f, -10.f, 8.f})));
  // Head 1 has no say in key 0, heads 2 and 3 none in key 1.
  at::Tensor some = all.clone();
  some[0][1][0][0].fill_(false);
  some[0].narrow(0, 2, 2).select(2, 1).fill_(false);
  EXPECT_THAT(reduced(GroupReduce::kMax, some),
              TensorEquals(at::tensor({1.f, 5.f, -4.f, -kInfinity})));
  EXPECT_THAT(reduced(GroupReduce::kMean, some), TensorEquals(at::tensor({1.f, 3.5f, -5.f, 0.f})));
  EXPECT_THAT(reduced(GroupReduce::kSum, some), TensorEquals(at::tensor({1.f, 7.f, -10.f, 0.f})));
}

TEST(Groups, AnyAndExpand) {
  const at::Tensor flags = at::tensor({1, 0, 0, 0, 0, 0, 0, 1}).to(at::kBool).view({1, 4, 1, 2});
  const at::Tensor any = AnyInGroup(flags, 2);
  EXPECT_THAT(any.flatten(), TensorEquals(at::tensor({1, 0, 0, 1})));
  EXPECT_THAT(ExpandGroup(any, 4).flatten(), TensorEquals(at::tensor({1, 0, 1, 0, 0, 1, 0, 1})));
}

TEST(AddKeys, SetsWeightOneAndLeavesThePreviousMaskAlone) {
  const Mask previous = MaskFromRows({"s.1."});
  const at::Tensor selected = at::tensor({0, 1, 0, 0}).to(at::kBool).view({1, 1, 1, 4});
  EXPECT_EQ(MaskRow(AddKeys(previous, selected), 0, 0, 0), "s11.");
  EXPECT_EQ(MaskRow(previous, 0, 0, 0), "s.1.");
  EXPECT_EQ(MaskRow(AddKeys(Mask::MakeEmpty({1, 1, 1, 4}), selected), 0, 0, 0), ".1..");
}

}  // namespace
}  // namespace sparse_attention
