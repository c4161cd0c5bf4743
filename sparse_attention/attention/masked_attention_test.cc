#include "sparse_attention/attention/masked_attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log.h>
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
#include "sparse_attention/attention/numeric_law.h"
#include "sparse_attention/attention/random_attention.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/mask/random_mask.h"

namespace sparse_attention {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kHalf, at::kBFloat16};

// What float32 arithmetic may lose. A logit is off by one rounding a term, dim terms that sum to at
// most `largest` in magnitude; its exponential and every weight by as much again; the sums over the
// keys add one rounding a key.
double AllowedEps(const AttentionInputs& in) {
  const at::Tensor q = in.q.to(at::kDouble).nan_to_num(0, 0, 0).abs();
  const at::Tensor k = in.k.to(at::kDouble).nan_to_num(0, 0, 0).abs();
  double largest = at::matmul(q, k.repeat_interleave(in.group_size(), 1).transpose(2, 3))
                       .amax({0, 1, 2, 3})
                       .item<double>() *
                   std::abs(in.effective_scale());
  if (in.bias.has_value() || in.sink_logits.has_value()) largest += 10;
  return 2 * (in.dim() + 6) * (1 + largest) + in.keys();
}

void ExpectNearReference(const AttentionState& state, const ReferenceState& reference,
                         const AttentionInputs& in) {
  const double eps = AllowedEps(in);
  const double largest =
      in.v.numel() == 0 ? 1 : in.v.to(at::kDouble).nan_to_num(0, 0, 0).abs().max().item<double>();
  EXPECT_THAT(state.out, TensorNear(reference.out, {.absolute_eps = eps, .magnitude = largest}));
  EXPECT_THAT(state.lse,
              TensorNear(reference.lse, {.relative_eps = 2, .absolute_eps = eps, .magnitude = 1}));
  EXPECT_EQ(state.out.scalar_type(), at::kFloat);
  EXPECT_EQ(state.lse.scalar_type(), at::kFloat);
}

class MaskedAttentionOfType : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, MaskedAttentionOfType, ::testing::ValuesIn(kTypes),
                         [](const auto& info) { return std::string(toString(info.param)); });

TEST_P(MaskedAttentionOfType, ObeysTheNumericLaw) {
  std::vector<at::Tensor> outs, references, baselines;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    const RandomAttention random = MakeRandomAttention(seed, GetParam());
    const AttentionInputs& in = random.inputs;
    SCOPED_TRACE(random.text);
    SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, random.mask));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, random.mask));
    ExpectNearReference(state, reference, in);
    const at::Tensor baseline = PlainAttention(in, random.mask);
    // A float32 baseline errs as little as we do: there one case of a few rows is chance.
    if (GetParam() != at::kFloat) {
      EXPECT_THAT(state.out.to(GetParam()), ObeysNumericLaw(reference.out, baseline));
    }
    outs.push_back(state.out.to(GetParam()).flatten());
    references.push_back(reference.out.flatten());
    baselines.push_back(baseline.flatten());
  }
  EXPECT_THAT(at::cat(outs), ObeysNumericLaw(at::cat(references), at::cat(baselines)));
}

// NaN and infinities anywhere in q, k and v: they reach exactly the rows that select them.
TEST_P(MaskedAttentionOfType, HostileValuesReachExactlyTheRowsThatSelectThem) {
  int64_t hit = 0, spared = 0;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    RandomAttention random = MakeRandomAttention(seed, GetParam());
    AttentionInputs& in = random.inputs;
    SCOPED_TRACE(random.text);
    RandomTensors plants(seed + 1000);
    for (at::Tensor* tensor : {&in.q, &in.k, &in.v}) {
      for (const double value : {kNan, kInf, -kInf}) {
        if (plants.Chance(0.25)) plants.Plant(*tensor, value, plants.Integer(1, 3));
      }
    }
    SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, random.mask));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, random.mask));
    ExpectNearReference(state, reference, in);
    hit += reference.out.isnan().any(-1).sum().item<int64_t>();
    spared += reference.out.isfinite().all(-1).sum().item<int64_t>();
  }
  EXPECT_GT(hit, 100);
  EXPECT_GT(spared, 1000);
}

TEST_P(MaskedAttentionOfType, OneVisibleKeyGivesItsValueBitForBit) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const int64_t keys = random.OneOf<int64_t>({1, 7, 130, 9000});  // 9000: more than one piece
    const int64_t group = random.OneOf<int64_t>({1, 4});
    AttentionInputs in;
    in.q = random.Normal({1, 2 * group, 3, 64}, GetParam());
    in.k = random.Normal({1, 2, keys, 64}, GetParam());
    // The whole range of the type, subnormal numbers included.
    in.v =
        random.Normal({1, 2, keys, 64}, GetParam())
            .mul(random.Uniform({1, 2, keys, 64}, -20, 20).mul(std::log(2.0)).exp().to(GetParam()));
    random.Plant(in.v, GetParam() == at::kHalf ? 6e-8 : 1e-40, 5);
    random.Plant(in.v, GetParam() == at::kHalf ? 65504 : 0x1.fep127, 5);
    std::vector<int64_t> index;
    for (int64_t row = 0; row < 2 * group * 3; ++row) index.push_back(random.Integer(0, keys - 1));
    const at::Tensor chosen = at::tensor(index, at::kLong).view({1, 2 * group, 3, 1});
    const double weight = random.OneOf<double>({1, 0.3});
    const Mask mask =
        *Mask::FromRowIndices(in.mask_shape(), chosen, at::full(chosen.sizes(), weight));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, mask));
    const at::Tensor want = in.v.repeat_interleave(group, 1)
                                .unsqueeze(2)
                                .expand({1, 2 * group, 3, keys, 64})
                                .gather(3, chosen.unsqueeze(-1).expand({1, 2 * group, 3, 1, 64}))
                                .squeeze(3);
    EXPECT_THAT(state.out, TensorEquals(want));
    EXPECT_THAT(state.out.to(GetParam()), TensorEquals(want));
    const at::Tensor logit = ComputeLogits(in).gather(3, chosen).squeeze(3);
    if (weight == 1) {
      EXPECT_THAT(state.lse, TensorNear(logit, {.absolute_eps = 64}));
    } else {
      EXPECT_THAT(state.lse, TensorNear(logit.to(at::kDouble).sub(std::log(weight)),
                                        {.relative_eps = 2, .absolute_eps = 64, .magnitude = 1}));
    }
  }
}

TEST_P(MaskedAttentionOfType, OneVisibleKeyByCausalWindowOrBias) {
  RandomTensors random(3);
  AttentionInputs in;
  in.q = random.Normal({1, 2, 1, 8}, GetParam());
  in.k = random.Normal({1, 1, 6, 8}, GetParam());
  in.v = random.Normal({1, 1, 6, 8}, GetParam());
  const auto expect_key = [&](int64_t key) {
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, DenseAttention(in));
    EXPECT_THAT(state.out, TensorEquals(in.v.narrow(2, key, 1).expand({1, 2, 1, 8})));
    EXPECT_THAT(state.lse, TensorEquals(ComputeLogits(in).select(3, key)));
  };
  in.causal = true;
  in.first_query_position = 0;
  expect_key(0);
  in.first_query_position = 3;
  in.sliding_window = 1;
  expect_key(3);
  in.causal = false;
  in.sliding_window.reset();
  in.bias = at::tensor({-kInf, -kInf, -kInf, -kInf, 2.5, -kInf}).view({1, 1, 1, 6});
  expect_key(4);
}

TEST_P(MaskedAttentionOfType, NoKeyGivesExactZeroWhateverHidesThem) {
  RandomTensors random(4);
  AttentionInputs in;
  in.q = random.Normal({2, 4, 3, 8}, GetParam());
  in.k = random.Normal({2, 2, 6, 8}, GetParam());
  in.v = random.Normal({2, 2, 6, 8}, GetParam());
  const at::Tensor zeros = at::zeros({2, 4, 3, 8}), minus_infinity = at::full({2, 4, 3}, -kInf);
  const auto expect_empty = [&](const Mask& mask) {
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, mask));
    EXPECT_THAT(state.out, TensorEquals(zeros));
    EXPECT_THAT(state.lse, TensorEquals(minus_infinity));
    EXPECT_THAT(*MaskedAttentionWeights(in, mask), TensorEquals(at::zeros({2, 4, 3, 6})));
  };
  const MaskShape shape = in.mask_shape();
  expect_empty(Mask::MakeEmpty(shape));
  expect_empty(Mask::AdoptDense(at::zeros({2, 4, 3, 6})));
  expect_empty(*Mask::FromCsr(shape, at::zeros({25}, at::kLong), at::zeros({0}, at::kLong)));
  in.bias = at::full({1, 1, 3, 6}, -kInf);
  expect_empty(Mask::MakeFull(shape));
  in.bias = at::full({1, 1, 3, 6}, -3e38);  // what model libraries write for -inf
  expect_empty(Mask::MakeFull(shape));
  in.bias.reset();
  in.sliding_window = 2;
  in.first_query_position = 100;
  expect_empty(Mask::MakeFull(shape));
  // NaN in every key and value changes nothing, and neither does NaN in q.
  in.k.fill_(kNan);
  in.v.fill_(kNan);
  in.q.fill_(kNan);
  expect_empty(Mask::MakeFull(shape));
}

TEST_P(MaskedAttentionOfType, SinkAlone) {
  AttentionInputs in;
  in.q = at::ones({1, 2, 1, 4}, GetParam());
  in.k = at::ones({1, 1, 3, 4}, GetParam());
  in.v = at::ones({1, 1, 3, 4}, GetParam());
  in.sink_logits = at::tensor({0.5, -2.}).to(GetParam());
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState state,
                          MaskedAttention(in, Mask::MakeEmpty({1, 2, 1, 3})));
  EXPECT_THAT(state.out, TensorEquals(at::zeros({1, 2, 1, 4})));
  EXPECT_THAT(state.lse, TensorEquals(at::tensor({0.5, -2.}).view({1, 2, 1})));
  // A sink of -inf is no sink.
  in.sink_logits = at::full({2}, -kInf);
  EXPECT_THAT(MaskedAttention(in, Mask::MakeEmpty({1, 2, 1, 3}))->lse,
              TensorEquals(at::full({1, 2, 1}, -kInf)));
  EXPECT_THAT(DenseAttention(in)->out, TensorEquals(at::ones({1, 2, 1, 4})));
}

TEST_P(MaskedAttentionOfType, InfiniteLogits) {
  AttentionInputs in;
  in.q = at::ones({1, 1, 1, 1}, GetParam());
  in.k = at::tensor({1., kInf, 3., kInf, -kInf}).to(GetParam()).view({1, 1, 5, 1});
  in.v = at::tensor({10., 20., 30., 40., 50.}).to(GetParam()).view({1, 1, 5, 1});
  const auto attend = [&](std::vector<double> weights) {
    const AttentionState state = *MaskedAttention(
        in, Mask::AdoptDense(at::tensor(weights).to(at::kFloat).view({1, 1, 1, 5})));
    return std::vector<float>{state.out.item<float>(), state.lse.item<float>()};
  };
  using ::testing::ElementsAre;
  using ::testing::FloatEq;
  EXPECT_THAT(attend({1, 1, 1, 1, 1}), ElementsAre(30, kInf));  // the two are averaged
  EXPECT_THAT(attend({1, 0, 1, 1, 1}), ElementsAre(40, kInf));
  EXPECT_THAT(attend({1, 1, 1, 0.25, 1}), ElementsAre(FloatEq(36), kInf));  // 1 : 4
  EXPECT_THAT(attend({1, 0, 0, 0, 1}), ElementsAre(10, 1));
  EXPECT_THAT(attend({0, 0, 0, 0, 1}), ElementsAre(0, -kInf));
  in.sink_logits = at::full({1}, 5.0);  // nothing beside an infinite logit
  EXPECT_THAT(attend({1, 0, 1, 1, 1}), ElementsAre(40, kInf));
  in.sink_logits = at::full({1}, kInf);
  EXPECT_THAT(attend({1, 0, 1, 1, 1}), ElementsAre(20, kInf));
  EXPECT_THAT(attend({1, 0, 1, 0, 1}), ElementsAre(0, kInf));
}

TEST_P(MaskedAttentionOfType, NanInASelectedKeyHitsItsRowsOnly) {
  RandomTensors random(5);
  const AttentionInputs clean = {.q = random.Normal({1, 2, 2, 8}, GetParam()),
                                 .k = random.Normal({1, 1, 4, 8}, GetParam()),
                                 .v = random.Normal({1, 1, 4, 8}, GetParam())};
  // Only query 0 of head 1 selects key 2.
  at::Tensor weights = at::ones({1, 2, 2, 4});
  weights.select(3, 2).zero_();
  weights[0][1][0][2] = 0.5;
  const Mask mask = Mask::AdoptDense(weights);
  const AttentionState want = *MaskedAttention(clean, mask);
  for (const bool in_value : {false, true}) {
    SCOPED_TRACE(in_value ? "value" : "key");
    AttentionInputs in = clean;
    at::Tensor& tensor = in_value ? in.v : in.k;
    tensor = tensor.clone();
    tensor[0][0][2].fill_(kNan);
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState got, MaskedAttention(in, mask));
    EXPECT_TRUE(got.out[0][1][0].isnan().all().item<bool>());
    EXPECT_EQ(got.lse[0][1][0].isnan().item<bool>(), !in_value);
    at::Tensor others = got.out.clone();
    others[0][1][0].copy_(want.out[0][1][0]);
    EXPECT_THAT(others, TensorNear(want.out, {.absolute_eps = 4}));
  }
}

TEST(MaskedAttention, NanInASelectedValueIsNotHiddenByAVanishingWeight) {
  AttentionInputs in;
  in.q = at::ones({1, 1, 1, 1});
  in.scale = 1;
  in.k = at::tensor({0., 500.}).to(at::kFloat).view({1, 1, 2, 1});
  in.v = at::tensor({kNan, 1.}).to(at::kFloat).view({1, 1, 2, 1});
  EXPECT_TRUE(DenseAttention(in)->out.isnan().item<bool>());
  EXPECT_TRUE(ReferenceAttention(in, Mask::MakeFull({1, 1, 1, 2}))->out.isnan().all().item<bool>());
}

// The largest logit is not selected and lies hundreds above the selected ones.
TEST(MaskedAttention, TheMaximumIsTakenOverSelectedKeys) {
  AttentionInputs in;
  in.q = at::ones({1, 1, 1, 1});
  in.scale = 1;
  in.k = at::tensor({0., 500., 0.}).to(at::kFloat).view({1, 1, 3, 1});
  in.v = at::tensor({2., 1e6, 4.}).to(at::kFloat).view({1, 1, 3, 1});
  const Mask mask = *Mask::FromRowIndices({1, 1, 1, 3}, at::tensor({0, 2}).view({1, 1, 1, 2}));
  EXPECT_EQ(MaskedAttention(in, mask)->out.item<float>(), 3);
}

// Few queries go another way with a mask that is not flagged full.
constexpr Tolerance kAnotherOrder = {.relative_eps = 16, .absolute_eps = 64};

TEST(MaskedAttention, AFullBudgetEqualsDense) {
  for (const auto type : kTypes) {
    for (uint64_t seed = 0; seed < 30; ++seed) {
      const RandomAttention random = MakeRandomAttention(seed, type);
      SCOPED_TRACE(random.text);
      const AttentionInputs& in = random.inputs;
      const Mask full = Mask::MakeFull(in.mask_shape());
      const Mask::Csr csr = full.ToCsr();
      SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
      for (const Mask& mask : {full, Mask::AdoptDense(full.ToDense()),
                               *Mask::FromCsr(full.shape(), csr.indptr, csr.indices)}) {
        SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, mask));
        const bool same_way = mask.is_full() || in.queries() > 16;
        const Tolerance tolerance = same_way ? Tolerance{} : kAnotherOrder;
        EXPECT_THAT(state.out, TensorNear(dense.out, tolerance));
        EXPECT_THAT(state.lse, TensorNear(dense.lse, tolerance));
      }
    }
  }
}

TEST(MaskedAttention, StatesOverSplitKeysMergeToTheWhole) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const int64_t keys = random.Integer(2, 200), cut = random.Integer(1, keys - 1);
    AttentionInputs in;
    in.q = random.Normal({1, 4, 2, 16}, at::kBFloat16);
    in.k = random.Normal({1, 2, keys, 16}, at::kBFloat16);
    in.v = random.Normal({1, 2, keys, 8}, at::kBFloat16);
    const at::Tensor weights = RandomMaskWeights(random, in.mask_shape(), 0.2, 0.5);
    const auto part = [&](int64_t begin, int64_t length) {
      AttentionInputs some = in;
      some.k = in.k.narrow(2, begin, length);
      some.v = in.v.narrow(2, begin, length);
      return *MaskedAttention(some, Mask::AdoptDense(weights.narrow(3, begin, length)));
    };
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState merged,
                            Merge(part(0, cut), part(cut, keys - cut)));
    SA_ASSERT_OK_AND_ASSIGN(const ReferenceState whole,
                            ReferenceAttention(in, Mask::AdoptDense(weights)));
    ExpectNearReference(merged, whole, in);
  }
}

TEST(MaskedAttentionWeights, SumToOneLessTheSinkAndReproduceTheOutput) {
  for (const auto type : kTypes) {
    for (uint64_t seed = 0; seed < 60; ++seed) {
      const RandomAttention random = MakeRandomAttention(seed, type);
      SCOPED_TRACE(random.text);
      const AttentionInputs& in = random.inputs;
      SA_ASSERT_OK_AND_ASSIGN(const at::Tensor weights, MaskedAttentionWeights(in, random.mask));
      SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, random.mask));
      const at::Tensor selected = random.mask.ToActive().logical_and(VisibleByDefinition(in));
      at::Tensor want = selected.any(-1).to(at::kDouble);
      if (in.sink_logits.has_value()) {
        const at::Tensor sink = in.sink_logits->to(at::kDouble).view({1, in.query_heads(), 1});
        want =
            want.sub(sink.sub(reference.lse).exp().masked_fill(selected.any(-1).logical_not(), 0));
      }
      const double eps = AllowedEps(in);
      EXPECT_THAT(weights.sum(-1), TensorNear(want, {.absolute_eps = eps, .magnitude = 1}));
      EXPECT_TRUE(weights.masked_select(selected.logical_not()).eq(0).all().item<bool>());
      EXPECT_GE(weights.min().item<double>(), 0);
      const at::Tensor v = in.v.to(at::kDouble).repeat_interleave(in.group_size(), 1);
      EXPECT_THAT(at::matmul(weights.to(at::kDouble), v).to(at::kFloat),
                  TensorNear(reference.out,
                             {.absolute_eps = eps, .magnitude = v.abs().max().item<double>()}));
    }
  }
}

TEST(MaskedAttention, ChangesNeitherInputsNorMaskNorMemo) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    RandomAttention random = MakeRandomAttention(seed, at::kFloat);
    SCOPED_TRACE(random.text);
    AttentionInputs& in = random.inputs;
    const at::Tensor q = in.q.clone(), k = in.k.clone(), v = in.v.clone();
    const at::Tensor weights = random.mask.ToDense();
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState alone, MaskedAttention(in, random.mask));
    in.memo = std::make_shared<LogitsMemo>();
    const at::Tensor logits = ComputeLogits(in).clone();
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, random.mask));
    SA_ASSERT_OK(MaskedAttentionWeights(in, random.mask));
    EXPECT_THAT(in.memo->logits, TensorEquals(logits));
    EXPECT_THAT(state.out, TensorNear(alone.out, kAnotherOrder));
    EXPECT_THAT(state.lse, TensorNear(alone.lse, kAnotherOrder));
    EXPECT_THAT(in.q, TensorEquals(q));
    EXPECT_THAT(in.k, TensorEquals(k));
    EXPECT_THAT(in.v, TensorEquals(v));
    EXPECT_THAT(random.mask.ToDense(), TensorEquals(weights));
  }
}

TEST_P(MaskedAttentionOfType, ZeroSizes) {
  for (const int64_t batch : {0, 2}) {
    for (const int64_t queries : {0, 3}) {
      for (const int64_t keys : {0, 5}) {
        for (const int64_t value_dim : {0, 6}) {
          AttentionInputs in = {.q = at::ones({batch, 4, queries, 8}, GetParam()),
                                .k = at::ones({batch, 2, keys, 8}, GetParam()),
                                .v = at::ones({batch, 2, keys, value_dim}, GetParam())};
          for (const bool sinks : {false, true}) {
            if (sinks) in.sink_logits = at::zeros({4});
            const MaskShape shape = in.mask_shape();
            const Mask full = Mask::MakeFull(shape);
            for (const Mask& mask :
                 {full, Mask::MakeEmpty(shape), Mask::AdoptDense(full.ToDense()),
                  *Mask::FromCsr(shape, full.ToCsr().indptr, full.ToCsr().indices)}) {
              SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, mask));
              SA_ASSERT_OK_AND_ASSIGN(const ReferenceState want, ReferenceAttention(in, mask));
              EXPECT_THAT(state.out, TensorNear(want.out, {.relative_eps = 4}));
              EXPECT_THAT(state.lse, TensorNear(want.lse, {.relative_eps = 4}));
              if (keys == 0) {
                EXPECT_TRUE(state.out.eq(0).all().item<bool>());
              }
            }
          }
        }
      }
    }
  }
}

TEST(MaskedAttention, Errors) {
  AttentionInputs in = {
      .q = at::ones({1, 4, 2, 8}), .k = at::ones({1, 2, 5, 8}), .v = at::ones({1, 2, 5, 8})};
  const Mask other = Mask::MakeFull({1, 2, 2, 5});
  constexpr char kMessage[] =
      "the mask must have shape [1, 4, 2, 5] on cpu, got Mask([1, 2, 2, 5], full) on cpu";
  EXPECT_THAT(MaskedAttention(in, other), StatusIs(kInvalid, kMessage));
  EXPECT_THAT(MaskedAttentionWeights(in, other), StatusIs(kInvalid, kMessage));
  EXPECT_THAT(MaskedAttention(in, Mask::MakeFull({1, 4, 2, 5}, at::kMeta)),
              StatusIs(kInvalid,
                       "the mask must have shape [1, 4, 2, 5] on cpu, got Mask([1, 4, 2, 5], full) "
                       "on meta"));
  in.softcap = 0;
  constexpr char kSoftcap[] = "softcap must be finite and > 0, got 0";
  const Mask mask = Mask::MakeFull({1, 4, 2, 5});
  EXPECT_THAT(MaskedAttention(in, mask), StatusIs(kInvalid, kSoftcap));
  EXPECT_THAT(MaskedAttentionWeights(in, mask), StatusIs(kInvalid, kSoftcap));
  EXPECT_THAT(DenseAttention(in), StatusIs(kInvalid, kSoftcap));
  EXPECT_THAT(DenseAttention({}), StatusIs(kInvalid, "q must have 4 dimensions, got undefined"));
}

TEST(RelativeOutputError, IsTheNormOfTheDifferenceOverTheNorm) {
  const auto row = [](std::vector<double> x, at::ScalarType type = at::kFloat) {
    return at::tensor(x, at::kDouble).to(type).view({1, 1, 1, 2});
  };
  const auto error = [](const at::Tensor& out, const at::Tensor& dense) {
    return RelativeOutputError(out, dense)->item<float>();
  };
  EXPECT_FLOAT_EQ(error(row({3 + 0.3, 4 - 0.4}), row({3, 4})), 0.1);
  EXPECT_EQ(error(row({3, 4}), row({3, 4})), 0);
  EXPECT_EQ(error(row({0, 0}), row({3, 4})), 1);
  EXPECT_EQ(error(row({0, 0}), row({0, 0})), 0);
  EXPECT_EQ(error(row({0, 1}), row({0, 0})), kInf);
  EXPECT_TRUE(std::isnan(error(row({0, kNan}), row({0, 1}))));
  EXPECT_TRUE(std::isnan(error(row({0, 1}), row({kNan, 1}))));
  // Squares that float32 cannot hold.
  EXPECT_FLOAT_EQ(error(row({6e30, 8e30}), row({3e30, 4e30})), 1);
  EXPECT_FLOAT_EQ(error(row({6e-30, 8e-30}), row({3e-30, 4e-30})), 1);
  EXPECT_EQ(error(row({6, 8}, at::kBFloat16), row({3, 4}, at::kHalf)), 1);

  RandomTensors random(6);
  const at::Tensor out = random.Normal({2, 3, 4, 5}), dense = random.Normal({2, 3, 4, 5});
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor got, RelativeOutputError(out, dense));
  const at::Tensor wide = dense.to(at::kDouble);
  EXPECT_THAT(
      got, TensorNear(
               out.to(at::kDouble).sub(wide).pow(2).sum(-1).sqrt().div(wide.pow(2).sum(-1).sqrt()),
               {.relative_eps = 2}));
  EXPECT_EQ(RelativeOutputError(at::zeros({0, 3, 4, 5}), at::zeros({0, 3, 4, 5}))->numel(), 0);
}

TEST(RelativeOutputError, Errors) {
  EXPECT_THAT(RelativeOutputError(at::zeros({1, 1, 1, 2}), at::zeros({1, 1, 2})),
              StatusIs(kInvalid, "dense must have 4 dimensions, got float32 [1, 1, 2] on cpu"));
  EXPECT_THAT(
      RelativeOutputError(at::zeros({1, 1, 1, 2}), at::zeros({1, 1, 1, 3})),
      StatusIs(kInvalid, "out must have shape [1, 1, 1, 3], got float32 [1, 1, 1, 2] on cpu"));
}

}  // namespace
}  // namespace sparse_attention
