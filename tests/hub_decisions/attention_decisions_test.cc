// Quirks of the Python hub's masks and masked attention that are not taken over: each test computes
// the hub's formula, shows what is wrong with it, and gives the same input to this library.
//
//    1  changing a mask changes the masks before it    Decision1_...
//    2  inverse weights in float16, stored zeros       Decision2_...
//    4  a row that selects nothing                     Decision4_...
//    5  the row maximum over keys that are left out    Decision5_...
//    7  a repeated index counts twice                  Decision7_...
//    9  weights of another type than the mask          Decision9_...
//   10  indices out of range                           Decision10_...
//   38  learned sinks and the output error             Decision38_...
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/mask/mask_ops.h"
#include "sparse_attention/research_attention/maskers/fixed/sink.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

at::Tensor Row(const std::vector<float>& values, at::ScalarType type = at::kFloat) {
  return at::tensor(values).to(type).view({1, 1, 1, -1});
}
at::Tensor Longs(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

TEST(HubDecisions, Decision1_APreviousMaskStaysWhatItWas) {
  const at::Tensor before = Row({0, 0.5, 0, 1});
  const AttentionInputs in = InputsWithLogits({{0, 0, 0, 0}});

  // The hub's mask is the caller's tensor, and its sink masker writes into that.
  const at::Tensor hub_caller = before.clone();
  const at::Tensor hub_previous = hub_caller, hub_result = hub_previous;
  hub_result.narrow(3, 0, 2).fill_(1);
  EXPECT_FALSE(hub_caller.equal(before));

  const at::Tensor caller = before.clone();
  SA_ASSERT_OK_AND_ASSIGN(const Mask previous, Mask::FromDense(caller));
  const auto sink = MakeMasker<Sink>(R"({"sink_size": 2})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask result, sink->AddMask(in, previous, nullptr));
  EXPECT_THAT(result.ToDense(), TensorEquals(hub_result));
  EXPECT_THAT(caller, TensorEquals(before));
  EXPECT_THAT(previous.ToDense(), TensorEquals(before));
}

// 1 / (m + 1e-6), in the type of the mask.
at::Tensor HubInverse(const at::Tensor& weights) { return weights.add(1e-6).reciprocal(); }

TEST(HubDecisions, Decision2_InverseWeightsInHalfPrecision) {
  const at::Tensor x = Row({3, 3}, at::kHalf), weights = Row({1, 0}, at::kHalf);
  const at::Tensor hub = x.mul(HubInverse(weights).mul(weights.ne(0)));
  EXPECT_THAT(hub, TensorEquals(Row({3, NAN})));

  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, Mask::FromDense(weights));
  EXPECT_THAT(*ApplyInverseWeights(mask, x), TensorEquals(Row({3, 0})));
}

TEST(HubDecisions, Decision2_AStoredZeroIsNoMillion) {
  const at::Tensor x = Row({3, 3}), weights = Row({1, 0});
  EXPECT_GT(x.mul(HubInverse(weights)).max().item<float>(), 1e6);  // the hub's sparse mode

  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, Mask::FromDense(weights));
  EXPECT_THAT(*ApplyInverseWeights(mask, x), TensorEquals(Row({3, 0})));
  EXPECT_THAT(Mask::FromCsr({1, 1, 1, 2}, Longs({0, 2}), Longs({0, 1}), weights.flatten()),
              StatusIs(kInvalid, HasSubstr("weight of key 1 must be in (0, 1], got 0")));
}

// exp(logits - their maximum over all keys) / weights, normalised, times the values.
float HubOutput(const AttentionInputs& in, const at::Tensor& weights) {
  const at::Tensor logits = in.k.view({-1});
  const at::Tensor e = logits.sub(logits.max()).exp().mul(weights.flatten());
  return e.mul(in.v.flatten()).sum().div(e.sum()).item<float>();
}

TEST(HubDecisions, Decision4_ARowWithoutASelectedKeyIsZero) {
  const AttentionInputs in = InputsWithLogits({{1, 2, 3}});
  const at::Tensor nothing = at::zeros({1, 1, 1, 3});
  EXPECT_TRUE(std::isnan(HubOutput(in, nothing)));
  EXPECT_EQ(MaskedAttention(in, Mask::AdoptDense(nothing))->out.item<float>(), 0);
}

TEST(HubDecisions, Decision5_AnUnselectedMaximumDoesNotUnderflowTheRest) {
  const AttentionInputs in = InputsWithLogits({{0, 500, 0}});  // values 0, 1, 2
  const at::Tensor without_the_maximum = Row({1, 0, 1});
  EXPECT_TRUE(std::isnan(HubOutput(in, without_the_maximum)));
  EXPECT_EQ(MaskedAttention(in, Mask::AdoptDense(without_the_maximum))->out.item<float>(), 1);
}

TEST(HubDecisions, Decision7_ARepeatedIndexIsNotCountedTwice) {
  const MaskShape shape{1, 1, 2, 3};
  const at::Tensor entries = Longs({0, 1, 2, 2, 0, 1, 2});  // row 0 names key 2 twice
  const double hub_density = static_cast<double>(entries.numel()) / 6;
  EXPECT_GT(hub_density, 1);

  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 4, 7}), entries),
              StatusIs(kInvalid, HasSubstr("row 0: indices must ascend without repeats")));
  EXPECT_EQ(Mask::FromCsr(shape, Longs({0, 3, 6}), Longs({0, 1, 2, 0, 1, 2}))->Density(), 1);
}

TEST(HubDecisions, Decision9_WeightsTakeTheTypeOfTheMask) {
  const at::Tensor indices = Longs({0, 2}), weights = at::tensor({1., 0.5}).to(at::kHalf);
  EXPECT_THROW(at::zeros({4}).index_put_({indices}, weights), c10::Error);  // the hub's conversion

  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          Mask::FromCsr({1, 1, 1, 4}, Longs({0, 2}), indices, weights));
  EXPECT_THAT(mask.ToDense(), TensorEquals(Row({1, 0, 0.5, 0})));
}

TEST(HubDecisions, Decision10_AnIndexBeyondItsRowIsNoKeyOfTheNext) {
  const MaskShape shape{1, 1, 2, 4};
  // The hub puts row 0's key 5 at position 5 of the flattened mask: key 1 of row 1.
  const at::Tensor hub = at::zeros({8}).index_put_({Longs({5})}, at::tensor({1.f}));
  EXPECT_EQ(hub.view({2, 4})[1][1].item<float>(), 1);

  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 1, 1}), Longs({5})),
              StatusIs(kInvalid, "row 0: an index must be in [0, 4), got 5"));
  EXPECT_THAT(Mask::FromRowIndices(shape, at::full({1, 1, 2, 1}, 5, at::kLong)),
              StatusIs(kInvalid, HasSubstr("an index must be in [0, 4), got 5")));
}

TEST(HubDecisions, Decision38_ThePreciseOutputOfALayerWithSinksHasNoError) {
  AttentionInputs in = RandomInputs({.queries = 3, .keys = 20});
  in.sink_logits = at::full({4}, 2.f);
  AttentionInputs without_sinks = in;
  without_sinks.sink_logits.reset();
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState full,
                          MaskedAttention(in, Mask::MakeFull(in.mask_shape())));

  const at::Tensor hub_reference = DenseAttention(without_sinks)->out;
  const at::Tensor hub_error = at::linalg_vector_norm(full.out.sub(hub_reference), 2, {-1})
                                   .div(at::linalg_vector_norm(hub_reference, 2, {-1}));
  EXPECT_GT(hub_error.min().item<float>(), 0.05);

  EXPECT_TRUE(RelativeOutputError(full.out, DenseAttention(in)->out)->eq(0).all().item<bool>());
}

}  // namespace
}  // namespace sparse_attention
