#include "sparse_attention/mask/mask_ops.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/mask/random_mask.h"

namespace sparse_attention {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A mask of a random representation, Empty and Full among them.
Mask RandomMask(RandomTensors& random, const MaskShape& shape, double certain) {
  const int64_t kind = random.Integer(0, 9);
  if (kind == 0) return Mask::MakeEmpty(shape);
  if (kind == 1) return Mask::MakeFull(shape);
  const Mask dense = Mask::AdoptDense(RandomMaskWeights(random, shape, random.Real(0, 1), certain));
  if (kind < 6) return dense;
  const Mask::Csr csr = dense.ToCsr();
  return *Mask::FromCsr(shape, csr.indptr, csr.indices, csr.weights);
}

TEST(Union, IsTheClampedSumWithIdentityAndAbsorbingElement) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const MaskShape shape = RandomMaskShape(random, 7);
    const Mask a = RandomMask(random, shape, 0.3);
    const Mask b = RandomMask(random, shape, 0.3);
    const Mask c = RandomMask(random, shape, 0.3);
    const at::Tensor before_a = a.ToDense(), before_b = b.ToDense();

    SA_ASSERT_OK_AND_ASSIGN(const Mask ab, Union(a, b));
    EXPECT_EQ(ab.shape(), shape);
    EXPECT_THAT(ab.ToDense(), TensorEquals(before_a.add(before_b).clamp(0, 1)));
    EXPECT_THAT(Union(b, a)->ToDense(), TensorEquals(ab.ToDense()));
    // Two sums of three weights up to 1, rounded in another order.
    EXPECT_THAT(Union(ab, c)->ToDense(),
                TensorNear(Union(a, *Union(b, c))->ToDense(), {.relative_eps = 2}));

    const Mask empty = Mask::MakeEmpty(shape), full = Mask::MakeFull(shape);
    for (const Mask& nothing : {empty, Mask::AdoptDense(empty.ToDense())}) {
      EXPECT_THAT(Union(a, nothing)->ToDense(), TensorEquals(before_a));
      EXPECT_THAT(Union(nothing, a)->ToDense(), TensorEquals(before_a));
    }
    for (const Mask& everything : {full, Mask::AdoptDense(full.ToDense())}) {
      EXPECT_THAT(Union(a, everything)->ToDense(), TensorEquals(full.ToDense()));
      EXPECT_THAT(Union(everything, a)->ToDense(), TensorEquals(full.ToDense()));
    }
    const Mask certain = RandomMask(random, shape, /*certain=*/1);
    EXPECT_THAT(Union(certain, certain)->ToDense(), TensorEquals(certain.ToDense()));
    // The arguments are left as they were.
    EXPECT_THAT(a.ToDense(), TensorEquals(before_a));
    EXPECT_THAT(b.ToDense(), TensorEquals(before_b));
  }
}

TEST(Union, KeepsTheCheapRepresentations) {
  const MaskShape shape{1, 1, 1, 2};
  const Mask dense = Mask::AdoptDense(at::full({1, 1, 1, 2}, 0.5));
  const Mask empty = Mask::MakeEmpty(shape), full = Mask::MakeFull(shape);
  EXPECT_TRUE(Union(full, dense)->is_full());
  EXPECT_TRUE(Union(dense, full)->is_full());
  EXPECT_TRUE(Union(empty, full)->is_full());
  EXPECT_TRUE(Union(empty, empty)->is_empty());
  // The identity shares storage instead of copying.
  EXPECT_TRUE(Union(dense, empty)->dense_weights().is_same(dense.dense_weights()));
}

TEST(Union, AddsProbabilitiesAndClamps) {
  const auto mask = [&](double a, double b, double c) {
    return Mask::AdoptDense(at::tensor({a, b, c}).to(at::kFloat).view({1, 1, 1, 3}));
  };
  EXPECT_THAT(Union(mask(0.25, 0.75, 0), mask(0.5, 0.5, 0))->ToDense(),
              TensorEquals(mask(0.75, 1, 0).ToDense()));
}

TEST(Union, RefusesOtherShapes) {
  EXPECT_THAT(Union(Mask::MakeEmpty({1, 2, 3, 4}), Mask::MakeFull({1, 2, 3, 5})),
              StatusIs(kInvalid, "cannot unite masks of shapes [1, 2, 3, 4] and [1, 2, 3, 5]"));
}

TEST(ApplyInverseWeights, DividesActiveEntriesOnly) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const MaskShape s = RandomMaskShape(random, 7);
    const Mask mask = RandomMask(random, s, 0.3);
    const at::Tensor weights = mask.ToDense();
    const auto type = random.OneOf<at::ScalarType>({at::kFloat, at::kHalf, at::kBFloat16});
    at::Tensor x = random.Normal({s.batch, s.heads, s.queries, s.keys}, type);
    at::Tensor want = x.to(at::kDouble).div(weights);
    want.masked_fill_(weights.eq(0), 0);
    // What lies outside the mask has no effect, NaN and infinity included.
    x.masked_fill_(weights.eq(0), random.Chance(0.5) ? kNan : -1 / 0.0);
    const at::Tensor before = x.clone();
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor got, ApplyInverseWeights(mask, x));
    EXPECT_EQ(got.scalar_type(), at::kFloat);
    EXPECT_THAT(got, TensorNear(want, {.relative_eps = 0.5}));
    EXPECT_THAT(x, TensorEquals(before));
  }
}

TEST(ApplyInverseWeights, ReturnsAFreshTensorAndPassesSelectedNan) {
  at::Tensor x = at::tensor({1., 2.}).to(at::kFloat).view({1, 1, 1, 2});
  at::Tensor got = *ApplyInverseWeights(Mask::MakeFull({1, 1, 1, 2}), x);
  got.zero_();
  EXPECT_THAT(x, TensorEquals(at::tensor({1., 2.}).view({1, 1, 1, 2})));
  x[0][0][0][1] = kNan;
  const Mask half = Mask::AdoptDense(at::full({1, 1, 1, 2}, 0.5));
  EXPECT_THAT(*ApplyInverseWeights(half, x),
              TensorEquals(at::tensor({2., kNan}).view({1, 1, 1, 2})));
}

TEST(ApplyInverseWeights, RefusesOtherShapes) {
  EXPECT_THAT(
      ApplyInverseWeights(Mask::MakeFull({1, 1, 1, 2}), at::zeros({1, 1, 2, 1})),
      StatusIs(kInvalid, "x must have shape [1, 1, 1, 2], got float32 [1, 1, 2, 1] on cpu"));
  EXPECT_THAT(ApplyInverseWeights(Mask::MakeFull({1, 1, 1, 2}), at::Tensor()),
              StatusIs(kInvalid, "x must have shape [1, 1, 1, 2], got undefined"));
}

TEST(SelectHeads, TakesEachHeadFromTheMaskThatItNames) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const MaskShape shape = RandomMaskShape(random, 6);
    std::vector<Mask> masks;
    const int64_t count = random.Integer(1, 4);
    for (int64_t i = 0; i < count; ++i) masks.push_back(RandomMask(random, shape, 0.5));
    std::vector<int> choice;
    std::vector<at::Tensor> want;
    for (int64_t head = 0; head < shape.heads; ++head) {
      choice.push_back(static_cast<int>(random.Integer(0, count - 1)));
      want.push_back(masks[choice.back()].ToDense().select(1, head));
    }
    SA_ASSERT_OK_AND_ASSIGN(const Mask got, SelectHeads(masks, choice));
    ASSERT_EQ(got.shape(), shape);
    if (shape.heads > 0) {
      EXPECT_THAT(got.ToDense(), TensorEquals(at::stack(want, 1)));
    }
  }
}

TEST(SelectHeadsDeathTest, AChoiceOutOfRangeIsADefectOfTheCaller) {
  const std::vector<Mask> masks = {Mask::MakeFull({1, 1, 1, 2})};
  EXPECT_DEATH((void)SelectHeads(masks, {1}), "check failed: choice");
  EXPECT_DEATH((void)SelectHeads(masks, {0, 0}), "check failed: .*choice.size");
}

// The definitions of MaskCost, entry by entry.
MaskCost BruteForceCost(const Mask& mask, int64_t kv_heads,
                        const std::optional<at::Tensor>& visible) {
  const MaskShape s = mask.shape();
  const at::Tensor dense = mask.ToDense();
  const at::Tensor seen =
      (visible.has_value() ? visible->expand(dense.sizes()) : dense.ge(0)).contiguous();
  const float* weight = dense.const_data_ptr<float>();
  const bool* sees = seen.const_data_ptr<bool>();
  const int64_t group = s.heads / kv_heads;
  MaskCost cost;
  int64_t rows_read = 0, rows_visible = 0;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t q = 0; q < s.queries; ++q) {
      for (int64_t head = 0; head < s.heads; ++head) {
        bool any = false;
        for (int64_t key = 0; key < s.keys; ++key) {
          const int64_t i = ((b * s.heads + head) * s.queries + q) * s.keys + key;
          any = any || sees[i];
          cost.visible += sees[i];
          cost.active += sees[i] && weight[i] > 0;
        }
        cost.empty_rows += !any;
      }
      for (int64_t kv = 0; kv < kv_heads; ++kv) {
        for (int64_t key = 0; key < s.keys; ++key) {
          bool read = false, could = false;
          for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
            const int64_t i = ((b * s.heads + head) * s.queries + q) * s.keys + key;
            could = could || sees[i];
            read = read || (sees[i] && weight[i] > 0);
          }
          rows_read += read;
          rows_visible += could;
        }
      }
    }
  }
  if (cost.visible > 0) {
    cost.density = static_cast<double>(cost.active) / cost.visible;
    cost.kv_rows_fraction = static_cast<double>(rows_read) / rows_visible;
  }
  return cost;
}

TEST(MeasureMask, AgreesWithCountingEntryByEntry) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    MaskShape shape = RandomMaskShape(random, 6);
    const int64_t kv_heads = random.Integer(1, 3);
    shape.heads = kv_heads * random.OneOf<int64_t>({1, 2, 4});
    const Mask mask = RandomMask(random, shape, 0.5);
    std::optional<at::Tensor> visible;
    if (random.Chance(0.7)) {
      const auto size_or_1 = [&](int64_t size) { return random.Chance(0.4) ? 1 : size; };
      visible = random
                    .Uniform({size_or_1(shape.batch), size_or_1(shape.heads),
                              size_or_1(shape.queries), shape.keys})
                    .lt(random.OneOf<double>({0, 0.2, 0.8}));
    }
    const MaskCost want = BruteForceCost(mask, kv_heads, visible);
    SA_ASSERT_OK_AND_ASSIGN(const MaskCost got, MeasureMask(mask, kv_heads, visible));
    EXPECT_EQ(got.active, want.active);
    EXPECT_EQ(got.visible, want.visible);
    EXPECT_EQ(got.empty_rows, want.empty_rows);
    EXPECT_DOUBLE_EQ(got.density, want.density);
    EXPECT_DOUBLE_EQ(got.kv_rows_fraction, want.kv_rows_fraction);
  }
}

TEST(MeasureMask, QueryHeadsOfAGroupShareTheRowsThatTheyRead) {
  // Four query heads over two KV heads, four keys: heads 0 and 1 read {0, 1} and {1, 2}, heads 2
  // and 3 both read {3}.
  const Mask mask = *Mask::FromRowIndices(
      {1, 4, 1, 4}, at::tensor({0, 1, 1, 2, 3, -1, 3, -1}, at::kLong).view({1, 4, 1, 2}));
  SA_ASSERT_OK_AND_ASSIGN(const MaskCost cost, MeasureMask(mask, 2, std::nullopt));
  EXPECT_EQ(cost.active, 6);
  EXPECT_EQ(cost.visible, 16);
  EXPECT_EQ(cost.density, 6.0 / 16);
  EXPECT_EQ(cost.kv_rows_fraction, 4.0 / 8);
}

TEST(MeasureMask, Errors) {
  const Mask mask = Mask::MakeFull({1, 6, 1, 4});
  EXPECT_THAT(MeasureMask(mask, 4, std::nullopt),
              StatusIs(kInvalid, "query heads 6 must be a multiple of KV heads 4"));
  EXPECT_THAT(MeasureMask(mask, 0, std::nullopt),
              StatusIs(kInvalid, "query heads 6 must be a multiple of KV heads 0"));
  EXPECT_THAT(MeasureMask(mask, 3, at::ones({1, 5}, at::kBool)),
              StatusIs(kInvalid,
                       "visible must be bool and broadcast to [1, 6, 1, 4], got bool [1, 5] on "
                       "cpu"));
  EXPECT_THAT(MeasureMask(mask, 3, at::ones({1, 4})),
              StatusIs(kInvalid,
                       "visible must be bool and broadcast to [1, 6, 1, 4], got float32 [1, 4] on "
                       "cpu"));
}

}  // namespace
}  // namespace sparse_attention
