#include "sparse_attention/attention/reference_attention.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor Values(std::vector<double> values, std::vector<int64_t> shape) {
  return at::tensor(values, at::kDouble).to(at::kFloat).view(shape);
}

// One query 1, scale 1: the keys are the logits. One value a key.
AttentionInputs OneQuery(std::vector<double> logits, std::vector<double> values) {
  const int64_t keys = static_cast<int64_t>(logits.size());
  AttentionInputs in;
  in.q = Values({1}, {1, 1, 1, 1});
  in.k = Values(logits, {1, 1, keys, 1});
  in.v = Values(values, {1, 1, keys, 1});
  in.scale = 1;
  return in;
}

struct Row {
  double out, lse;
};

Row Attend(const AttentionInputs& in, std::vector<double> weights) {
  const Mask mask =
      Mask::AdoptDense(Values(weights, {1, 1, 1, static_cast<int64_t>(weights.size())}));
  const auto state = ReferenceAttention(in, mask);
  SA_CHECK_OK(state);
  return {state->out.item<double>(), state->lse.item<double>()};
}

TEST(ReferenceAttention, TwoKeys) {
  // exp(0) = 1 and exp(log 3) = 3: weights 1/4 and 3/4. log 3 is rounded to float32 on the way in.
  const Row row = Attend(OneQuery({0, std::log(3.0)}, {4, 8}), {1, 1});
  EXPECT_NEAR(row.out, 7, 1e-6);
  EXPECT_NEAR(row.lse, std::log(4.0), 1e-7);
}

TEST(ReferenceAttention, ASinkTakesMassAndAddsNoValue) {
  AttentionInputs in = OneQuery({0, 0}, {3, 6});
  in.sink_logits = at::zeros({1});
  const Row row = Attend(in, {1, 1});  // 1/3 each
  EXPECT_DOUBLE_EQ(row.out, 3);
  EXPECT_DOUBLE_EQ(row.lse, std::log(3.0));
  in.sink_logits = at::full({1}, 50.0);  // the sink is the largest logit
  EXPECT_DOUBLE_EQ(Attend(in, {1, 1}).out, 9 * std::exp(-50) / (1 + 2 * std::exp(-50)));
}

TEST(ReferenceAttention, InverseWeights) {
  // 1 and 1 / 0.25: weights 1/5 and 4/5.
  const Row row = Attend(OneQuery({0, 0}, {5, 10}), {1, 0.25});
  EXPECT_DOUBLE_EQ(row.out, 9);
  EXPECT_DOUBLE_EQ(row.lse, std::log(5.0));
}

TEST(ReferenceAttention, AWeightOfZeroLeavesAKeyOut) {
  const Row row = Attend(OneQuery({0, 100, 0}, {5, 1000, 7}), {1, 0, 1});
  EXPECT_DOUBLE_EQ(row.out, 6);
  EXPECT_DOUBLE_EQ(row.lse, std::log(2.0));
}

TEST(ReferenceAttention, ScaleSoftcapAndBiasInThisOrder) {
  AttentionInputs in = OneQuery({3}, {1});
  in.scale = 2;
  EXPECT_DOUBLE_EQ(Attend(in, {1}).lse, 6);
  in.softcap = 4;
  EXPECT_DOUBLE_EQ(Attend(in, {1}).lse, 4 * std::tanh(1.5));
  in.bias = Values({0.5, 99}, {1, 1, 1, 2});  // longer than the keys
  EXPECT_DOUBLE_EQ(Attend(in, {1}).lse, 4 * std::tanh(1.5) + 0.5);
  in = OneQuery({8}, {1});
  in.scale.reset();  // 1 / sqrt(dim), dim 1
  EXPECT_DOUBLE_EQ(Attend(in, {1}).lse, 8);
}

TEST(ReferenceAttention, TheDefaultScaleIsTheRootOfTheDimension) {
  AttentionInputs in;
  in.q = at::full({1, 1, 1, 16}, 1.0);
  in.k = at::full({1, 1, 1, 16}, 1.0);
  in.v = at::zeros({1, 1, 1, 1});
  EXPECT_DOUBLE_EQ(ReferenceAttention(in, Mask::MakeFull({1, 1, 1, 1}))->lse.item<double>(), 4);
}

// With zero logits, lse is the logarithm of the number of keys that a query sees.
TEST(ReferenceAttention, CausalWindowAndBiasHideKeys) {
  AttentionInputs in;
  in.q = at::zeros({1, 1, 2, 1});
  in.k = at::zeros({1, 1, 5, 1});
  in.v = Values({1, 2, 4, 8, 16}, {1, 1, 5, 1});
  const auto sums = [&] {  // which keys each query sees, as bits
    const auto state = ReferenceAttention(in, Mask::MakeFull(in.mask_shape()));
    return std::vector<double>{
        state->out[0][0][0][0].item<double>() * std::exp(state->lse[0][0][0].item<double>()),
        state->out[0][0][1][0].item<double>() * std::exp(state->lse[0][0][1].item<double>())};
  };
  using ::testing::DoubleEq;
  using ::testing::ElementsAre;
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(31), DoubleEq(31)));
  in.causal = true;  // positions 3 and 4
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(15), DoubleEq(31)));
  in.first_query_position = 1;
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(3), DoubleEq(7)));
  in.sliding_window = 2;
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(3), DoubleEq(6)));
  in.causal = false;
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(31), DoubleEq(30)));
  in.sliding_window.reset();
  in.bias = Values({0, -kInf, -3e38, 0, 0, 0, 0, 0, -2e38, -kInf}, {1, 1, 2, 5});
  EXPECT_THAT(sums(), ElementsAre(DoubleEq(25), DoubleEq(7)));
}

TEST(ReferenceAttention, QueryHeadsOfAGroupShareAKvHead) {
  AttentionInputs in;
  in.q = at::zeros({2, 4, 1, 1});
  in.k = at::zeros({2, 2, 1, 1});
  in.v = Values({1, 2, 3, 4}, {2, 2, 1, 1});
  EXPECT_THAT(ReferenceAttention(in, Mask::MakeFull({2, 4, 1, 1}))->out.view({8}),
              TensorEquals(at::tensor({1, 1, 2, 2, 3, 3, 4, 4})));
}

TEST(ReferenceAttention, EdgeRows) {
  AttentionInputs in = OneQuery({1, 2}, {5, 7});
  EXPECT_EQ(Attend(in, {0, 0}).out, 0);
  EXPECT_EQ(Attend(in, {0, 0}).lse, -kInf);
  EXPECT_EQ(Attend(in, {0, 1}).out, 7);
  EXPECT_EQ(Attend(in, {0, 1}).lse, 2);
  in.sink_logits = at::full({1}, 0.5);
  EXPECT_EQ(Attend(in, {0, 0}).out, 0);
  EXPECT_EQ(Attend(in, {0, 0}).lse, 0.5);

  in = OneQuery({1, kInf, kInf, -kInf}, {5, 7, 9, 11});
  EXPECT_EQ(Attend(in, {1, 1, 1, 1}).out, 8);  // ties averaged
  EXPECT_EQ(Attend(in, {1, 1, 1, 1}).lse, kInf);
  EXPECT_EQ(Attend(in, {1, 1, 0.5, 1}).out, (7 + 2 * 9) / 3.0);
  EXPECT_EQ(Attend(in, {1, 1, 0, 1}).out, 7);
  EXPECT_EQ(Attend(in, {1, 0, 0, 1}).out, 5);

  in = OneQuery({1, kNan}, {5, 7});
  EXPECT_TRUE(std::isnan(Attend(in, {1, 1}).out));
  EXPECT_TRUE(std::isnan(Attend(in, {1, 1}).lse));
  EXPECT_EQ(Attend(in, {1, 0}).out, 5);
  in = OneQuery({1, 2}, {5, kNan});
  EXPECT_TRUE(std::isnan(Attend(in, {1, 1}).out));
  EXPECT_FALSE(std::isnan(Attend(in, {1, 1}).lse));
  EXPECT_EQ(Attend(in, {1, 0}).out, 5);
}

TEST(ReferenceAttention, Errors) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  AttentionInputs in = OneQuery({1, 2}, {5, 7});
  EXPECT_THAT(ReferenceAttention(in, Mask::MakeFull({1, 1, 1, 3})),
              StatusIs(kInvalid,
                       "the reference needs tensors on cpu and a mask of shape [1, 1, 1, 2], got q "
                       "on cpu and Mask([1, 1, 1, 3], full)"));
  in.softcap = -1;
  EXPECT_THAT(ReferenceAttention(in, Mask::MakeFull({1, 1, 1, 2})),
              StatusIs(kInvalid, "softcap must be finite and > 0, got -1"));
}

}  // namespace
}  // namespace sparse_attention
