#include "sparse_attention/attention/attention_inputs.h"

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/random_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// 2 sequences, 4 query heads on 2 KV heads, 3 queries, 5 keys, dim 8, value dim 6.
AttentionInputs Inputs(at::ScalarType type = at::kFloat) {
  RandomTensors random(1);
  AttentionInputs in;
  in.q = random.Normal({2, 4, 3, 8}, type);
  in.k = random.Normal({2, 2, 5, 8}, type);
  in.v = random.Normal({2, 2, 5, 6}, type);
  return in;
}

// ValidateInputs after `change` fails with exactly `message`.
#define EXPECT_REFUSED(change, message)                           \
  do {                                                            \
    AttentionInputs in = Inputs();                                \
    change;                                                       \
    EXPECT_THAT(ValidateInputs(in), StatusIs(kInvalid, message)); \
  } while (false)

TEST(ValidateInputs, AcceptsEveryOption) {
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    AttentionInputs in = Inputs(type);
    SA_EXPECT_OK(ValidateInputs(in));
    in.scale = -0.5;
    in.softcap = 30;
    in.sliding_window = 1;
    in.sink_logits = at::zeros({4});
    in.causal = true;
    in.layer = 7;
    in.first_query_position = (int64_t{1} << 32) - 3;
    in.memo = std::make_shared<LogitsMemo>();
    for (const auto bias : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
      in.bias = at::zeros({1, 4, 3, 9}, bias);
      SA_EXPECT_OK(ValidateInputs(in));
    }
  }
}

TEST(ValidateInputs, Tensors) {
  EXPECT_REFUSED(in.q = at::Tensor(), "q must have 4 dimensions, got undefined");
  EXPECT_REFUSED(in.q = in.q[0], "q must have 4 dimensions, got float32 [4, 3, 8] on cpu");
  EXPECT_REFUSED(in.k = at::Tensor(), "k must have 4 dimensions, got undefined");
  EXPECT_REFUSED(in.v = in.v[0], "v must have 4 dimensions, got float32 [2, 5, 6] on cpu");
  EXPECT_REFUSED(in.q = in.q.to(at::kLong),
                 "q must be float32, float16 or bfloat16, got int64 [2, 4, 3, 8] on cpu");
  EXPECT_REFUSED(in.q = in.q.to(at::kDouble),
                 "q must be float32, float16 or bfloat16, got float64 [2, 4, 3, 8] on cpu");
  EXPECT_REFUSED(in.k = in.k.narrow(0, 0, 1),
                 "k must have shape [2, -1, -1, 8], got float32 [1, 2, 5, 8] on cpu");
  EXPECT_REFUSED(in.k = in.k.narrow(3, 0, 4),
                 "k must have shape [2, -1, -1, 8], got float32 [2, 2, 5, 4] on cpu");
  EXPECT_REFUSED(in.v = in.v.narrow(2, 0, 4),
                 "v must have shape [2, 2, 5, -1], got float32 [2, 2, 4, 6] on cpu");
  EXPECT_REFUSED(in.v = in.v.narrow(1, 0, 1),
                 "v must have shape [2, 2, 5, -1], got float32 [2, 1, 5, 6] on cpu");
  EXPECT_REFUSED(in.k = in.k.to(at::kHalf),
                 "k must have the type and device of q, float32 [2, 4, 3, 8] on cpu, got float16 "
                 "[2, 2, 5, 8] on cpu");
  EXPECT_REFUSED(in.v = in.v.to(at::kBFloat16),
                 "v must have the type and device of q, float32 [2, 4, 3, 8] on cpu, got bfloat16 "
                 "[2, 2, 5, 6] on cpu");
  EXPECT_REFUSED(in.k = in.k.to(at::kMeta),
                 "k must have the type and device of q, float32 [2, 4, 3, 8] on cpu, got float32 "
                 "[2, 2, 5, 8] on meta");
  EXPECT_REFUSED((in.q = in.q.narrow(3, 0, 0), in.k = in.k.narrow(3, 0, 0)),
                 "q must have at least one channel, got 0");
  EXPECT_REFUSED(in.q = in.q.narrow(1, 0, 3), "query heads (3) must be a multiple of KV heads (2)");
  EXPECT_REFUSED((in.k = in.k.narrow(1, 0, 0), in.v = in.v.narrow(1, 0, 0)),
                 "query heads (4) must be a multiple of KV heads (0)");
}

TEST(ValidateInputs, Options) {
  EXPECT_REFUSED(in.scale = 0, "scale must be finite and not 0, got 0");
  EXPECT_REFUSED(in.scale = kNan, "scale must be finite and not 0, got nan");
  EXPECT_REFUSED(in.scale = -kInf, "scale must be finite and not 0, got -inf");
  EXPECT_REFUSED(in.softcap = 0, "softcap must be finite and > 0, got 0");
  EXPECT_REFUSED(in.softcap = -2.5, "softcap must be finite and > 0, got -2.5");
  EXPECT_REFUSED(in.softcap = kNan, "softcap must be finite and > 0, got nan");
  EXPECT_REFUSED(in.softcap = kInf, "softcap must be finite and > 0, got inf");
  EXPECT_REFUSED(in.sliding_window = 0, "sliding_window must be >= 1, got 0");
  EXPECT_REFUSED(in.layer = -1, "layer must be >= 0, got -1");
  EXPECT_REFUSED(in.first_query_position = -1,
                 "first_query_position must be >= 0 and all positions below 2^32, got -1 and 3 "
                 "queries");
  EXPECT_REFUSED(in.first_query_position = std::numeric_limits<int64_t>::max(),
                 "first_query_position must be >= 0 and all positions below 2^32, got "
                 "9223372036854775807 and 3 queries");
  EXPECT_REFUSED(in.sink_logits = at::zeros({2}),
                 "sink_logits must have shape [4], got float32 [2] on cpu");
  EXPECT_REFUSED(in.sink_logits = at::Tensor(), "sink_logits must have shape [4], got undefined");
  EXPECT_REFUSED(in.sink_logits = at::zeros({4}, at::kLong),
                 "sink_logits must be floating point, got int64 [4] on cpu");
  EXPECT_REFUSED(in.sink_logits = at::zeros({4}).to(at::kMeta),
                 "sink_logits must be on the device of q, cpu, got float32 [4] on meta");
}

TEST(ValidateInputs, Bias) {
  EXPECT_REFUSED(in.bias = at::zeros({3, 5}),
                 "bias must have 4 dimensions, got float32 [3, 5] on cpu");
  EXPECT_REFUSED(in.bias = at::zeros({1, 1, 3, 5}, at::kBool),
                 "bias must be floating point, got bool [1, 1, 3, 5] on cpu");
  EXPECT_REFUSED(in.bias = at::zeros({1, 1, 3, 5}).to(at::kMeta),
                 "bias must be on the device of q, cpu, got float32 [1, 1, 3, 5] on meta");
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 1, 3, 5}, {1, 2, 3, 5}, {1, 1, 1, 5}, {1, 1, 3, 4}}) {
    AttentionInputs in = Inputs();
    in.bias = at::zeros(shape);
    EXPECT_THAT(ValidateInputs(in),
                StatusIs(kInvalid, absl::StrCat("bias must have shape [2 or 1, 4 or 1, 3, >= 5], "
                                                "got float32 [",
                                                shape[0], ", ", shape[1], ", ", shape[2], ", ",
                                                shape[3], "] on cpu")));
  }
}

TEST(ValidateInputs, MoreQueriesThanKeysNeedAPositionOnlyWherePositionsMatter) {
  AttentionInputs in = Inputs();
  in.k = in.k.narrow(2, 0, 2);
  in.v = in.v.narrow(2, 0, 2);
  SA_EXPECT_OK(ValidateInputs(in));
  in.causal = true;
  EXPECT_THAT(ValidateInputs(in),
              StatusIs(kInvalid,
                       "first_query_position is needed where there are more queries (3) than keys "
                       "(2)"));
  in.causal = false;
  in.sliding_window = 4;
  EXPECT_THAT(ValidateInputs(in), StatusIs(kInvalid));
  in.first_query_position = 0;
  SA_EXPECT_OK(ValidateInputs(in));
}

TEST(ValidateInputs, AMemoOfOtherInputs) {
  AttentionInputs in = Inputs();
  in.memo = std::make_shared<LogitsMemo>();
  ComputeLogits(in);
  SA_EXPECT_OK(ValidateInputs(in));
  in.k = in.k.narrow(2, 0, 4);
  in.v = in.v.narrow(2, 0, 4);
  EXPECT_THAT(ValidateInputs(in),
              StatusIs(kInvalid,
                       "memo of these inputs: logits must have shape [2, 4, 3, 4], got float32 [2, "
                       "4, 3, 5] on cpu"));
}

TEST(AttentionInputs, DerivedNumbers) {
  AttentionInputs in = Inputs();
  EXPECT_EQ(in.batch(), 2);
  EXPECT_EQ(in.query_heads(), 4);
  EXPECT_EQ(in.kv_heads(), 2);
  EXPECT_EQ(in.group_size(), 2);
  EXPECT_EQ(in.queries(), 3);
  EXPECT_EQ(in.keys(), 5);
  EXPECT_EQ(in.dim(), 8);
  EXPECT_EQ(in.value_dim(), 6);
  EXPECT_EQ(in.mask_shape(), (MaskShape{2, 4, 3, 5}));
  EXPECT_EQ(in.effective_scale(), 1 / std::sqrt(8.0));
  EXPECT_EQ(in.query_position(0), 2);
  EXPECT_EQ(in.query_position(2), 4);
  in.first_query_position = 40;
  in.scale = 3;
  EXPECT_EQ(in.query_position(2), 42);
  EXPECT_EQ(in.effective_scale(), 3);
}

TEST(VisibleKeys, AgreesWithTheDefinition) {
  int restricted = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const RandomAttention random = MakeRandomAttention(seed, at::kFloat);
    SCOPED_TRACE(random.text);
    const auto visible = VisibleKeys(random.inputs);
    const at::Tensor want = VisibleByDefinition(random.inputs);
    if (visible.has_value()) {
      ++restricted;
      EXPECT_EQ(visible->scalar_type(), at::kBool);
      EXPECT_THAT(visible->expand(want.sizes()), TensorEquals(want));
    } else {
      EXPECT_TRUE(want.all().item<bool>());
    }
  }
  EXPECT_GT(restricted, 100);
}

TEST(VisibleKeys, CausalAndWindowByHand) {
  AttentionInputs in = Inputs();
  in.q = in.q.narrow(0, 0, 1).narrow(1, 0, 2);
  in.k = in.k.narrow(0, 0, 1);
  in.v = in.v.narrow(0, 0, 1);
  EXPECT_EQ(VisibleKeys(in), std::nullopt);
  in.causal = true;  // queries at 2, 3, 4
  EXPECT_THAT(
      *VisibleKeys(in),
      TensorEquals(at::tensor({1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1}).view({1, 1, 3, 5})));
  in.sliding_window = 2;
  EXPECT_THAT(
      *VisibleKeys(in),
      TensorEquals(at::tensor({0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1}).view({1, 1, 3, 5})));
  in.causal = false;
  EXPECT_THAT(
      *VisibleKeys(in),
      TensorEquals(at::tensor({0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1}).view({1, 1, 3, 5})));
  in.sliding_window.reset();
  in.causal = true;
  in.first_query_position = 4;  // all keys are in the past of every query
  EXPECT_EQ(VisibleKeys(in), std::nullopt);
  in.first_query_position = 3;
  EXPECT_EQ(VisibleKeys(in)->logical_not().sum().item<int64_t>(), 1);
}

TEST(VisibleKeys, TheBiasForbidsFromHalfTheLowestValueOfItsType) {
  const std::vector<std::pair<at::ScalarType, double>> lowest = {
      {at::kHalf, -65504},
      {at::kBFloat16, -0x1.fep127},
      {at::kFloat, -0x1.fffffep127},
      {at::kDouble, -0x1.fffffffffffffp1023}};
  for (const auto& [type, low] : lowest) {
    AttentionInputs in = Inputs();
    in.q = in.q.narrow(2, 0, 1);
    // 0.99: the next value that all four types can tell from a half.
    in.bias = at::tensor({-kInf, low, low / 2, low / 2 * 0.99, kNan}, at::kDouble)
                  .to(type)
                  .view({1, 1, 1, 5});
    EXPECT_THAT(*VisibleKeys(in), TensorEquals(at::tensor({0, 0, 0, 1, 1}).view({1, 1, 1, 5})));
    in.bias = at::tensor({0., -30000., kInf, 1., 65504.}, at::kDouble).to(type).view({1, 1, 1, 5});
    EXPECT_TRUE(VisibleKeys(in)->all().item<bool>());
  }
}

// The logits in float64, their largest term-by-term magnitude (what rounding is measured against),
// straight from the definition.
struct LogitsByDefinition {
  at::Tensor logits;
  double magnitude;
};

LogitsByDefinition DefineLogits(const AttentionInputs& in) {
  const at::Tensor q = in.q.to(at::kDouble);
  const at::Tensor k = in.k.to(at::kDouble).repeat_interleave(in.group_size(), 1).transpose(2, 3);
  const double scale = in.effective_scale();
  at::Tensor x = at::matmul(q, k).mul(scale);
  double magnitude = at::matmul(q.abs(), k.abs()).max().item<double>() * std::abs(scale);
  if (in.softcap.has_value()) x = x.div(*in.softcap).tanh().mul(*in.softcap);
  const at::Tensor visible = VisibleByDefinition(in);
  if (in.bias.has_value()) {
    const at::Tensor bias = in.bias->to(at::kDouble)
                                .narrow(3, 0, in.keys())
                                .expand_as(x)
                                .masked_fill(visible.logical_not(), 0);
    x = x.add(bias);
    magnitude += bias.abs().max().item<double>();
  }
  return {x.masked_fill(visible.logical_not(), -kInf), magnitude};
}

TEST(ComputeLogits, AgreesWithFloat64InEveryType) {
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const RandomAttention random = MakeRandomAttention(seed, type);
      SCOPED_TRACE(random.text);
      const LogitsByDefinition want = DefineLogits(random.inputs);
      const at::Tensor got = ComputeLogits(random.inputs);
      EXPECT_EQ(got.scalar_type(), at::kFloat);
      // One rounding a term, and a few for scale, softcap and bias.
      EXPECT_THAT(got, TensorNear(want.logits, {.absolute_eps = random.inputs.dim() + 6.0,
                                                .magnitude = want.magnitude}));
    }
  }
}

TEST(ComputeLogits, KeysBeyondOnePiece) {
  RandomTensors random(5);
  for (const auto type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    AttentionInputs in;
    // 16 * 1024 floats a key: 256 keys a piece, so three pieces, the last one short.
    in.q = random.Normal({2, 8, 2, 1024}, type);
    in.k = random.Normal({2, 8, 600, 1024}, type);
    in.v = random.Normal({2, 8, 600, 1024}, type);
    in.causal = true;
    const LogitsByDefinition want = DefineLogits(in);
    EXPECT_THAT(ComputeLogits(in),
                TensorNear(want.logits, {.absolute_eps = 1024 + 6, .magnitude = want.magnitude}));
    const at::Tensor p = random.Uniform({2, 8, 2, 600});
    EXPECT_THAT(WeightedValues(in, p),
                TensorNear(at::matmul(p.to(at::kDouble), in.v.to(at::kDouble)),
                           {.absolute_eps = 600, .magnitude = 300}));
  }
}

TEST(ComputeLogits, StridedKeysAsInACacheWithRoomToGrow) {
  RandomTensors random(6);
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    AttentionInputs in;
    in.q = random.Normal({2, 3, 4, 8}, type).transpose(1, 2);   // [2, 4, 3, 8]
    in.k = random.Normal({2, 2, 20, 8}, type).narrow(2, 3, 9);  // capacity 20
    in.v = random.Normal({2, 9, 2, 8}, type).transpose(1, 2);   // [2, 2, 9, 8]
    const LogitsByDefinition want = DefineLogits(in);
    const at::Tensor logits = ComputeLogits(in);
    EXPECT_THAT(logits,
                TensorNear(want.logits, {.absolute_eps = 8 + 6.0, .magnitude = want.magnitude}));
    const at::Tensor v = in.v.to(at::kDouble).repeat_interleave(2, 1);
    EXPECT_THAT(WeightedValues(in, logits), TensorNear(at::matmul(logits.to(at::kDouble), v),
                                                       {.absolute_eps = 9, .magnitude = 9 * 20}));
  }
}

TEST(ComputeLogits, TheMemoIsFilledOnceAndUsed) {
  AttentionInputs in = Inputs();
  in.memo = std::make_shared<LogitsMemo>();
  const at::Tensor first = ComputeLogits(in);
  EXPECT_TRUE(in.memo->logits.is_same(first));
  EXPECT_TRUE(ComputeLogits(in).is_same(first));
  AttentionInputs copy = in;  // copies share it
  EXPECT_TRUE(ComputeLogits(copy).is_same(first));
  in.memo = nullptr;
  const at::Tensor fresh = ComputeLogits(in);
  EXPECT_FALSE(fresh.is_same(first));
  EXPECT_THAT(fresh, TensorEquals(first));
}

TEST(ComputeLogits, LeavesTheInputsAlone) {
  AttentionInputs in = Inputs();
  in.bias = at::ones({1, 1, 3, 5});
  in.softcap = 2;
  const AttentionInputs before = {.q = in.q.clone(), .k = in.k.clone(), .v = in.v.clone()};
  ComputeLogits(in);
  EXPECT_THAT(in.q, TensorEquals(before.q));
  EXPECT_THAT(in.k, TensorEquals(before.k));
  EXPECT_THAT(*in.bias, TensorEquals(at::ones({1, 1, 3, 5})));
}

TEST(ComputeLogits, ZeroSizes) {
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    for (const int64_t batch : {0, 2}) {
      for (const int64_t queries : {0, 3}) {
        for (const int64_t keys : {0, 5}) {
          AttentionInputs in = {.q = at::zeros({batch, 4, queries, 8}, type),
                                .k = at::zeros({batch, 2, keys, 8}, type),
                                .v = at::zeros({batch, 2, keys, 6}, type),
                                .causal = true,
                                .first_query_position = 0};
          SA_EXPECT_OK(ValidateInputs(in));
          const at::Tensor logits = ComputeLogits(in);
          EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{batch, 4, queries, keys}));
          EXPECT_THAT(WeightedValues(in, at::zeros(logits.sizes())),
                      TensorEquals(at::zeros({batch, 4, queries, 6})));
        }
      }
    }
  }
}

}  // namespace
}  // namespace sparse_attention
