#include "sparse_attention/attention/attention_state.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// States of different bases do not merge, convert or assign: the compiler says so.
template <typename A, typename B>
concept Mergeable = requires(const A& a, const B& b) {
  Merge(a, b);
};
static_assert(Mergeable<AttentionState, AttentionState>);
static_assert(!Mergeable<AttentionState, Base2AttentionState>);
static_assert(!Mergeable<Base2AttentionState, AttentionState>);
static_assert(!Mergeable<Base2AttentionState, Base2AttentionState>);
static_assert(!std::is_convertible_v<Base2AttentionState, AttentionState>);
static_assert(!std::is_assignable_v<AttentionState&, const Base2AttentionState&>);

// The state over keys with these logits [b, h, q, n] and values [b, h, n, dv], in float64.
struct WideState {
  at::Tensor out, lse;
};

WideState Whole(const at::Tensor& logits, const at::Tensor& values) {
  const at::Tensor x = logits.to(at::kDouble);
  return {at::matmul(x.softmax(-1), values.to(at::kDouble)), x.logsumexp(-1)};
}

AttentionState Rounded(const WideState& state) {
  return {state.out.to(at::kFloat), state.lse.to(at::kFloat)};
}

// What `merges` merges of states with |lse| <= 60 may lose. A share is exp(lse - top): the rounding
// of both lse costs it eps * |lse|, exp and the sums a few eps more.
Tolerance OutTolerance(int merges, double magnitude) {
  return {.absolute_eps = merges * (2 * 60.0 + 8), .magnitude = magnitude};
}
Tolerance LseTolerance(int merges) { return {.absolute_eps = merges * 4.0, .magnitude = 60}; }

TEST(Merge, AnySplitOfTheKeysGivesTheWhole) {
  for (uint64_t seed = 0; seed < 1200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const int64_t b = random.Integer(1, 2), h = random.Integer(1, 3), q = random.Integer(1, 3);
    const int64_t n = random.Integer(3, 40), dv = random.Integer(1, 6);
    const at::Tensor logits =
        random.Normal({b, h, q, n}, at::kFloat, random.OneOf<double>({0.1, 3, 10}));
    const at::Tensor values = random.Normal({b, h, n, dv});
    const double magnitude = values.abs().max().item<double>();
    const int64_t first = random.Integer(1, n - 2), second = random.Integer(first + 1, n - 1);
    const auto part = [&](int64_t begin, int64_t end) {
      return Rounded(Whole(logits.slice(3, begin, end), values.slice(2, begin, end)));
    };
    const AttentionState x = part(0, first), y = part(first, second), z = part(second, n);
    const WideState whole = Whole(logits, values);

    SA_ASSERT_OK_AND_ASSIGN(const AttentionState xy, Merge(x, y));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState yx, Merge(y, x));
    EXPECT_THAT(yx.out, TensorEquals(xy.out));  // one rounding in one order: bit for bit
    EXPECT_THAT(yx.lse, TensorEquals(xy.lse));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState yz, Merge(y, z));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState left, Merge(xy, z));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState right, Merge(x, yz));
    for (const AttentionState& merged : {left, right}) {
      EXPECT_THAT(merged.out, TensorNear(whole.out, OutTolerance(2, magnitude)));
      EXPECT_THAT(merged.lse, TensorNear(whole.lse, LseTolerance(2)));
      EXPECT_EQ(merged.out.scalar_type(), at::kFloat);
    }

    // The empty state is the identity exactly, on both sides.
    const AttentionState empty = EmptyState(x.out.sizes());
    for (const auto& same : {Merge(x, empty), Merge(empty, x)}) {
      SA_ASSERT_OK(same);
      EXPECT_THAT(same->out, TensorEquals(x.out));
      EXPECT_THAT(same->lse, TensorEquals(x.lse));
    }
  }
}

// Rows that are empty, infinite or NaN, against the rule applied row by row.
WideState MergeByDefinition(const AttentionState& a, const AttentionState& b) {
  WideState result{a.out.to(at::kDouble).clone(), a.lse.to(at::kDouble).clone()};
  const int64_t rows = a.lse.numel(), dv = a.out.size(3);
  const at::Tensor oa = a.out.to(at::kDouble).contiguous(), ob = b.out.to(at::kDouble).contiguous();
  const at::Tensor la = a.lse.to(at::kDouble).contiguous(), lb = b.lse.to(at::kDouble).contiguous();
  for (int64_t row = 0; row < rows; ++row) {
    const double x = la.const_data_ptr<double>()[row], y = lb.const_data_ptr<double>()[row];
    double share_a, lse;
    if (std::isnan(x) || std::isnan(y)) {
      share_a = lse = kNan;
    } else if (x == y) {
      share_a = 0.5;
      lse = x + (std::isinf(x) ? 0 : std::log(2.0));
    } else {
      share_a = 1 / (1 + std::exp(y - x));
      lse = std::max(x, y) + std::log1p(std::exp(-std::abs(x - y)));
    }
    result.lse.data_ptr<double>()[row] = lse;
    for (int64_t c = 0; c < dv; ++c) {
      const double va = oa.const_data_ptr<double>()[row * dv + c];
      const double vb = ob.const_data_ptr<double>()[row * dv + c];
      double out = (x == -kInf ? 0 : share_a * va) + (y == -kInf ? 0 : (1 - share_a) * vb);
      if (std::isnan(share_a)) out = kNan;
      result.out.data_ptr<double>()[row * dv + c] = out;
    }
  }
  return result;
}

TEST(Merge, EmptyInfiniteAndNanRows) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const std::vector<int64_t> shape = {1, random.Integer(1, 3), random.Integer(1, 6)};
    const auto draw = [&] {
      AttentionState state;
      state.lse = random.Normal(shape, at::kFloat, 5);
      state.out = random.Normal({shape[0], shape[1], shape[2], 3});
      random.Plant(state.lse, -kInf, random.Integer(0, 4));
      state.out.masked_fill_(state.lse.isinf().unsqueeze(-1), 0);
      random.Plant(state.lse, kInf, random.Integer(0, 2));
      random.Plant(state.lse, kNan, random.Integer(0, 1));
      random.Plant(state.out, kNan, random.Integer(0, 1));
      return state;
    };
    const AttentionState a = draw(), b = draw();
    const WideState want = MergeByDefinition(a, b);
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState got, Merge(a, b));
    EXPECT_THAT(got.out, TensorNear(want.out, OutTolerance(1, 8)));
    EXPECT_THAT(got.lse, TensorNear(want.lse, LseTolerance(1)));
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState turned, Merge(b, a));
    EXPECT_THAT(turned.out, TensorEquals(got.out));
    EXPECT_THAT(turned.lse, TensorEquals(got.lse));
  }
}

AttentionState OneRow(double out, double lse) {
  return {at::full({1, 1, 1, 1}, out), at::full({1, 1, 1}, lse)};
}

TEST(Merge, ByHand) {
  const auto merge = [](const AttentionState& a, const AttentionState& b) {
    const AttentionState merged = *Merge(a, b);
    return std::vector<float>{merged.out.item<float>(), merged.lse.item<float>()};
  };
  using ::testing::ElementsAre;
  using ::testing::FloatEq;
  using ::testing::IsNan;
  // exp(0) = 1 and exp(log 3) = 3.
  EXPECT_THAT(merge(OneRow(4, 0), OneRow(8, std::log(3.0))),
              ElementsAre(FloatEq(7), FloatEq(std::log(4.f))));
  EXPECT_THAT(merge(OneRow(0, -kInf), OneRow(0, -kInf)), ElementsAre(0, -kInf));
  EXPECT_THAT(merge(OneRow(1, kInf), OneRow(5, 3)), ElementsAre(1, kInf));
  EXPECT_THAT(merge(OneRow(1, kInf), OneRow(5, kInf)), ElementsAre(3, kInf));
  // A sink adds mass and no value.
  EXPECT_THAT(merge(OneRow(6, 1), OneRow(0, 1)), ElementsAre(3, FloatEq(1 + std::log(2.f))));
  // Differences that no exponential can hold.
  EXPECT_THAT(merge(OneRow(1, 3e38), OneRow(5, -3e38)), ElementsAre(1, 3e38f));
  EXPECT_THAT(merge(OneRow(1, 500), OneRow(5, 500)), ElementsAre(3, FloatEq(500 + std::log(2.f))));
  // NaN reaches the row, even from a side whose share vanishes; from a side without keys it cannot.
  EXPECT_THAT(merge(OneRow(kNan, -200), OneRow(5, 200)), ElementsAre(IsNan(), 200));
  EXPECT_THAT(merge(OneRow(1, kNan), OneRow(5, 2)), ElementsAre(IsNan(), IsNan()));
  EXPECT_THAT(merge(OneRow(1, kNan), OneRow(0, -kInf)), ElementsAre(IsNan(), IsNan()));
  EXPECT_THAT(merge(OneRow(kNan, -kInf), OneRow(5, 2)), ElementsAre(5, 2));
}

TEST(Merge, LeavesItsArgumentsAlone) {
  const AttentionState a = OneRow(kNan, -kInf), b = OneRow(5, 2);
  SA_ASSERT_OK(Merge(a, b));
  EXPECT_THAT(a.out, TensorEquals(at::full({1, 1, 1, 1}, kNan)));
  EXPECT_THAT(a.lse, TensorEquals(at::full({1, 1, 1}, -kInf)));
  EXPECT_THAT(b.out, TensorEquals(at::full({1, 1, 1, 1}, 5)));
}

TEST(Merge, ZeroSizes) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{0, 2, 3, 4}, {1, 2, 0, 4}, {1, 2, 3, 0}}) {
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState merged,
                            Merge(EmptyState(shape), EmptyState(shape)));
    EXPECT_THAT(merged.out, TensorEquals(at::zeros(shape)));
    EXPECT_THAT(merged.lse, TensorEquals(at::full({shape[0], shape[1], shape[2]}, -kInf)));
  }
}

TEST(Merge, Errors) {
  const AttentionState a = EmptyState({1, 2, 3, 4});
  EXPECT_THAT(Merge(a, EmptyState({1, 2, 3, 5})),
              StatusIs(kInvalid,
                       "the second state's out must have shape [1, 2, 3, 4], got float32 [1, 2, 3, "
                       "5] on cpu"));
  EXPECT_THAT(Merge(a, {a.out, at::zeros({1, 2, 4})}),
              StatusIs(kInvalid,
                       "the second state's lse must have shape [1, 2, 3], got float32 [1, 2, 4] on "
                       "cpu"));
  EXPECT_THAT(Merge({a.out, at::zeros({1, 2, 3, 1})}, a),
              StatusIs(kInvalid,
                       "the first state's lse must have shape [1, 2, 3], got float32 [1, 2, 3, 1] "
                       "on cpu"));
  EXPECT_THAT(Merge({}, a),
              StatusIs(kInvalid, "the first state's out must have 4 dimensions, got undefined"));
  EXPECT_THAT(Merge(a, {}), StatusIs(kInvalid));
}

TEST(LogBase, ConvertsBothWays) {
  RandomTensors random(1);
  AttentionState state{random.Normal({1, 4, 64, 2}), random.Normal({1, 4, 64}, at::kFloat, 20)};
  random.Plant(state.lse, -kInf, 3);
  random.Plant(state.lse, kInf, 3);
  random.Plant(state.lse, kNan, 1);
  const Base2AttentionState base2 = ToBase2(state);
  EXPECT_THAT(base2.lse,
              TensorNear(state.lse.to(at::kDouble).div(std::log(2.0)), {.relative_eps = 1}));
  const AttentionState back = ToBaseE(base2);
  EXPECT_THAT(back.lse, TensorNear(state.lse, {.relative_eps = 2}));
  EXPECT_THAT(back.out, TensorEquals(state.out));
  // Eight keys with logit 0: lse is log 8, and 3 in base 2.
  EXPECT_FLOAT_EQ(ToBase2(OneRow(0, std::log(8.0))).lse.item<float>(), 3);
}

TEST(EmptyState, IsZeroAndMinusInfinity) {
  const AttentionState empty = EmptyState({2, 3, 1, 4});
  EXPECT_THAT(empty.out, TensorEquals(at::zeros({2, 3, 1, 4})));
  EXPECT_THAT(empty.lse, TensorEquals(at::full({2, 3, 1}, -kInf)));
}

}  // namespace
}  // namespace sparse_attention
