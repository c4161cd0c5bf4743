#include "sparse_attention/mask/mask.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <string>
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

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor Longs(std::vector<int64_t> values) { return at::tensor(values, at::kLong); }
at::Tensor Floats(std::vector<float> values) { return at::tensor(values, at::kFloat); }

// The entries of a dense mask, found by a plain loop: what every representation must agree with.
struct Rows {
  std::vector<std::vector<int64_t>> indices;  // ascending
  std::vector<std::vector<float>> weights;
};

Rows RowsOf(const at::Tensor& dense) {
  Rows rows;
  const int64_t keys = dense.size(3);
  const int64_t count = dense.size(0) * dense.size(1) * dense.size(2);
  const float* data = dense.const_data_ptr<float>();
  for (int64_t row = 0; row < count; ++row) {
    rows.indices.emplace_back();
    rows.weights.emplace_back();
    for (int64_t key = 0; key < keys; ++key) {
      if (data[row * keys + key] == 0) continue;
      rows.indices.back().push_back(key);
      rows.weights.back().push_back(data[row * keys + key]);
    }
  }
  return rows;
}

struct CsrArrays {
  at::Tensor indptr, indices, weights;
};

CsrArrays CsrOf(const Rows& rows) {
  std::vector<int64_t> indptr = {0}, indices;
  std::vector<float> weights;
  for (size_t row = 0; row < rows.indices.size(); ++row) {
    indices.insert(indices.end(), rows.indices[row].begin(), rows.indices[row].end());
    weights.insert(weights.end(), rows.weights[row].begin(), rows.weights[row].end());
    indptr.push_back(static_cast<int64_t>(indices.size()));
  }
  return {Longs(indptr), Longs(indices), Floats(weights)};
}

// The same rows as padded arrays [batch, heads, queries, n], shuffled within each row, the padding
// among them.
struct RowArrays {
  at::Tensor indices, weights;
};

RowArrays ShuffledRowsOf(RandomTensors& random, const MaskShape& shape, const Rows& rows) {
  size_t columns = random.Integer(0, 2);
  for (const auto& row : rows.indices) columns = std::max(columns, row.size());
  std::vector<int64_t> indices;
  std::vector<float> weights;
  for (size_t row = 0; row < rows.indices.size(); ++row) {
    std::vector<int64_t> index = rows.indices[row];
    std::vector<float> weight = rows.weights[row];
    index.resize(columns, -1);
    weight.resize(columns, 99);  // a pad's weight is not looked at
    for (size_t i = columns; i > 1; --i) {
      const size_t j = random.Integer(0, i - 1);
      std::swap(index[i - 1], index[j]);
      std::swap(weight[i - 1], weight[j]);
    }
    indices.insert(indices.end(), index.begin(), index.end());
    weights.insert(weights.end(), weight.begin(), weight.end());
  }
  const std::vector<int64_t> sizes = {shape.batch, shape.heads, shape.queries,
                                      static_cast<int64_t>(columns)};
  return {Longs(indices).view(sizes), Floats(weights).view(sizes)};
}

void ExpectHolds(const Mask& mask, const MaskShape& shape, const at::Tensor& dense,
                 const CsrArrays& csr) {
  EXPECT_EQ(mask.shape(), shape);
  EXPECT_THAT(mask.ToDense(), TensorEquals(dense));
  EXPECT_EQ(mask.ToDense().scalar_type(), at::kFloat);
  EXPECT_THAT(mask.ToActive(), TensorEquals(dense.gt(0)));
  EXPECT_EQ(mask.ToActive().scalar_type(), at::kBool);
  const Mask::Csr got = mask.ToCsr();
  EXPECT_THAT(got.indptr, TensorEquals(csr.indptr));
  EXPECT_THAT(got.indices, TensorEquals(csr.indices));
  EXPECT_THAT(got.weights, TensorEquals(csr.weights));
  EXPECT_EQ(got.indptr.scalar_type(), at::kLong);
  EXPECT_EQ(got.indices.scalar_type(), at::kLong);
  EXPECT_EQ(got.weights.scalar_type(), at::kFloat);
  const double active = csr.indices.numel();
  EXPECT_DOUBLE_EQ(mask.Density(), shape.elements() == 0 ? 0 : active / shape.elements());
}

TEST(Mask, AllConstructionPathsAgree) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const MaskShape shape = RandomMaskShape(random, 9);
    const at::Tensor dense = RandomMaskWeights(random, shape, random.Real(0, 1), 0.5);
    const Rows rows = RowsOf(dense);
    const CsrArrays csr = CsrOf(rows);
    const RowArrays padded = ShuffledRowsOf(random, shape, rows);

    SA_ASSERT_OK_AND_ASSIGN(const Mask from_dense, Mask::FromDense(dense));
    EXPECT_TRUE(from_dense.is_dense());
    ExpectHolds(from_dense, shape, dense, csr);
    ExpectHolds(Mask::AdoptDense(dense.clone()), shape, dense, csr);
    SA_ASSERT_OK_AND_ASSIGN(const Mask from_csr,
                            Mask::FromCsr(shape, csr.indptr, csr.indices, csr.weights));
    EXPECT_TRUE(from_csr.is_csr());
    ExpectHolds(from_csr, shape, dense, csr);
    SA_ASSERT_OK_AND_ASSIGN(const Mask from_int32,
                            Mask::FromCsr(shape, csr.indptr.to(at::kInt), csr.indices.to(at::kInt),
                                          csr.weights.to(at::kDouble)));
    ExpectHolds(from_int32, shape, dense, csr);
    SA_ASSERT_OK_AND_ASSIGN(const Mask from_rows,
                            Mask::FromRowIndices(shape, padded.indices, padded.weights));
    EXPECT_TRUE(from_rows.is_csr());
    ExpectHolds(from_rows, shape, dense, csr);

    // Round trips.
    const Mask::Csr arrays = from_dense.ToCsr();
    SA_ASSERT_OK_AND_ASSIGN(const Mask again,
                            Mask::FromCsr(shape, arrays.indptr, arrays.indices, arrays.weights));
    ExpectHolds(again, shape, dense, csr);
    ExpectHolds(Mask::AdoptDense(again.ToDense()), shape, dense, csr);
    EXPECT_THAT(from_csr.Normalized().ToDense(), TensorEquals(dense));
    EXPECT_THAT(from_dense.Normalized().ToDense(), TensorEquals(dense));
  }
}

TEST(Mask, WithoutWeightsEveryIndexIsCertain) {
  const MaskShape shape{1, 1, 2, 4};
  const at::Tensor want = at::tensor({0., 1., 0., 1., 1., 0., 0., 0.}).view({1, 1, 2, 4});
  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 2, 3}), Longs({1, 3, 0}))->ToDense(),
              TensorEquals(want));
  EXPECT_THAT(Mask::FromRowIndices(shape, Longs({3, 1, -1, 0}).view({1, 1, 2, 2}))->ToDense(),
              TensorEquals(want));
  EXPECT_THAT(Mask::FromDense(want.to(at::kBool))->ToDense(), TensorEquals(want));
}

TEST(Mask, EmptyAndFullStoreNothingAndEqualTheirDenseForms) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomTensors random(seed);
    const MaskShape shape = RandomMaskShape(random, 5);
    const std::vector<int64_t> sizes = {shape.batch, shape.heads, shape.queries, shape.keys};
    const Mask empty = Mask::MakeEmpty(shape);
    EXPECT_TRUE(empty.is_empty());
    const at::Tensor zeros = at::zeros(sizes);
    ExpectHolds(empty, shape, zeros, CsrOf(RowsOf(zeros)));
    const Mask full = Mask::MakeFull(shape);
    EXPECT_TRUE(full.is_full());
    const at::Tensor ones = at::ones(sizes);
    EXPECT_THAT(full.ToDense(), TensorEquals(ones));
    EXPECT_THAT(full.ToActive(), TensorEquals(ones));
    const CsrArrays csr = CsrOf(RowsOf(ones));
    EXPECT_THAT(full.ToCsr().indptr, TensorEquals(csr.indptr));
    EXPECT_THAT(full.ToCsr().indices, TensorEquals(csr.indices));
    EXPECT_THAT(full.ToCsr().weights, TensorEquals(csr.weights));
    EXPECT_EQ(full.Density(), 1);
  }
}

TEST(Mask, DenseInputOfEveryTypeIsStoredAsFloat32) {
  const at::Tensor weights = at::tensor({0., 0.25, 0.5, 1.}).view({1, 2, 1, 2});
  for (const auto type : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    SA_ASSERT_OK_AND_ASSIGN(const Mask mask, Mask::FromDense(weights.to(type)));
    EXPECT_THAT(mask.ToDense(), TensorEquals(weights));
  }
  // Any strides.
  SA_ASSERT_OK_AND_ASSIGN(const Mask transposed, Mask::FromDense(weights.transpose(1, 3)));
  EXPECT_THAT(transposed.ToDense(), TensorEquals(weights.transpose(1, 3)));
  EXPECT_THAT(Mask::AdoptDense(weights.to(at::kFloat).transpose(1, 3)).ToCsr().indices,
              TensorEquals(transposed.ToCsr().indices));
  SA_ASSERT_OK_AND_ASSIGN(const Mask expanded,
                          Mask::FromDense(at::full({1}, 0.5).expand({2, 2, 2, 2})));
  EXPECT_THAT(expanded.ToDense(), TensorEquals(at::full({2, 2, 2, 2}, 0.5)));
}

// Masks are values: nothing that a caller does with what it passed in or got out changes one.
TEST(Mask, IsImmutable) {
  const MaskShape shape{1, 1, 1, 3};
  at::Tensor weights = at::tensor({1., 0., 0.5}).to(at::kFloat).view({1, 1, 1, 3});
  const at::Tensor want = weights.clone();
  SA_ASSERT_OK_AND_ASSIGN(const Mask dense, Mask::FromDense(weights));
  weights.fill_(1);
  EXPECT_THAT(dense.ToDense(), TensorEquals(want));

  at::Tensor indptr = Longs({0, 2}), indices = Longs({0, 2}), values = Floats({1, 0.5});
  SA_ASSERT_OK_AND_ASSIGN(const Mask csr, Mask::FromCsr(shape, indptr, indices, values));
  indptr.zero_();
  indices.zero_();
  values.zero_();
  EXPECT_THAT(csr.ToDense(), TensorEquals(want));

  for (const Mask& mask : {dense, csr, Mask::MakeFull(shape), Mask::MakeEmpty(shape)}) {
    SCOPED_TRACE(mask.ToString());
    const at::Tensor before = mask.ToDense();
    const Mask copy = mask;
    at::Tensor out = mask.ToDense();
    out.fill_(0.125);
    at::Tensor active = mask.ToActive();
    active.logical_not_();
    EXPECT_THAT(mask.ToDense(), TensorEquals(before));
    EXPECT_THAT(mask.ToActive(), TensorEquals(before.gt(0)));
    EXPECT_THAT(copy.ToDense(), TensorEquals(before));
  }
}

TEST(Mask, NormalizedFindsWhatAMaskHolds) {
  const MaskShape shape{1, 2, 1, 2};
  EXPECT_TRUE(Mask::AdoptDense(at::zeros({1, 2, 1, 2})).Normalized().is_empty());
  EXPECT_TRUE(Mask::AdoptDense(at::ones({1, 2, 1, 2})).Normalized().is_full());
  EXPECT_TRUE(Mask::AdoptDense(at::full({1, 2, 1, 2}, 0.5)).Normalized().is_dense());
  at::Tensor one_missing = at::ones({1, 2, 1, 2});
  one_missing[0][1][0][1] = 0;
  EXPECT_TRUE(Mask::AdoptDense(one_missing).Normalized().is_dense());
  const at::Tensor all = Longs({0, 1, 0, 1});
  EXPECT_TRUE(Mask::FromCsr(shape, Longs({0, 0, 0}), Longs({}))->Normalized().is_empty());
  EXPECT_TRUE(Mask::FromCsr(shape, Longs({0, 2, 4}), all)->Normalized().is_full());
  EXPECT_TRUE(Mask::FromCsr(shape, Longs({0, 1, 2}), Longs({0, 1}))->Normalized().is_csr());
  EXPECT_TRUE(
      Mask::FromCsr(shape, Longs({0, 2, 4}), all, Floats({1, 1, 0.5, 1}))->Normalized().is_csr());
  EXPECT_TRUE(Mask::MakeFull(shape).Normalized().is_full());
  EXPECT_TRUE(Mask::MakeEmpty(shape).Normalized().is_empty());
  // Nothing is detected on the way in.
  EXPECT_TRUE(Mask::FromDense(at::ones({1, 2, 1, 2}))->is_dense());
}

TEST(Mask, DensityCountsActiveEntriesWhateverTheirWeight) {
  const MaskShape shape{1, 1, 2, 4};
  EXPECT_EQ(Mask::MakeEmpty(shape).Density(), 0);
  EXPECT_EQ(Mask::MakeFull(shape).Density(), 1);
  EXPECT_EQ(
      Mask::FromCsr(shape, Longs({0, 2, 3}), Longs({1, 3, 0}), Floats({0.1, 1, 0.5}))->Density(),
      0.375);
  EXPECT_EQ(Mask::AdoptDense(at::full({1, 1, 2, 4}, 0.25)).Density(), 1);
  EXPECT_EQ(Mask::AdoptDense(at::zeros({1, 1, 2, 0})).Density(), 0);
}

TEST(Mask, TextNamesShapeAndRepresentation) {
  const MaskShape shape{1, 8, 1, 4096};
  EXPECT_EQ(ToString(shape), "[1, 8, 1, 4096]");
  EXPECT_EQ(Mask::MakeEmpty(shape).ToString(), "Mask([1, 8, 1, 4096], empty)");
  EXPECT_EQ(Mask::MakeFull(shape).ToString(), "Mask([1, 8, 1, 4096], full)");
  EXPECT_EQ(Mask::AdoptDense(at::zeros({1, 1, 1, 2})).ToString(), "Mask([1, 1, 1, 2], dense)");
  EXPECT_EQ(Mask::FromCsr({1, 1, 1, 2}, Longs({0, 1}), Longs({1}))->ToString(),
            "Mask([1, 1, 1, 2], csr, nnz 1)");
}

TEST(MaskErrors, Dense) {
  EXPECT_THAT(Mask::FromDense(at::Tensor()),
              StatusIs(kInvalid, "mask weights must have 4 dimensions, got undefined"));
  EXPECT_THAT(Mask::FromDense(at::zeros({2, 3})),
              StatusIs(kInvalid, "mask weights must have 4 dimensions, got float32 [2, 3] on cpu"));
  EXPECT_THAT(
      Mask::FromDense(at::zeros({1, 1, 1, 2}, at::kLong)),
      StatusIs(kInvalid, "mask weights must be floating point, got int64 [1, 1, 1, 2] on cpu"));
  for (const auto& [value, text] :
       {std::pair{1.5, "1.5"}, std::pair{-0.5, "-0.5"}, std::pair{kNan, "nan"}}) {
    at::Tensor weights = at::zeros({1, 2, 1, 3});
    weights[0][1][0][2] = value;
    EXPECT_THAT(
        Mask::FromDense(weights),
        StatusIs(kInvalid, absl::StrCat("mask weights[0, 1, 0, 2] must be in [0, 1], got ", text)));
  }
}

TEST(MaskErrors, Csr) {
  const MaskShape shape{1, 1, 2, 4};
  const auto csr = [&](std::vector<int64_t> indptr, std::vector<int64_t> indices,
                       std::vector<float> weights = {}) {
    return Mask::FromCsr(shape, Longs(indptr), Longs(indices),
                         weights.empty() ? at::Tensor() : Floats(weights));
  };
  SA_EXPECT_OK(csr({0, 2, 3}, {1, 3, 0}));
  EXPECT_THAT(Mask::FromCsr({1, -1, 2, 4}, Longs({0}), Longs({})),
              StatusIs(kInvalid, "mask shape must not be negative, got [1, -1, 2, 4]"));
  EXPECT_THAT(csr({0, 2}, {1, 3}),
              StatusIs(kInvalid, "indptr must have shape [3], got int64 [2] on cpu"));
  EXPECT_THAT(Mask::FromCsr(shape, at::Tensor(), Longs({})),
              StatusIs(kInvalid, "indptr must have shape [3], got undefined"));
  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 0, 0}), at::zeros({1, 1}, at::kLong)),
              StatusIs(kInvalid, "indices must have 1 dimensions, got int64 [1, 1] on cpu"));
  EXPECT_THAT(Mask::FromCsr(shape, at::zeros({3}), Longs({})),
              StatusIs(kInvalid, "indptr must be int64 or int32, got float32 [3] on cpu"));
  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 0, 0}), at::zeros({0}, at::kBool)),
              StatusIs(kInvalid, "indices must be int64 or int32, got bool [0] on cpu"));
  EXPECT_THAT(csr({0, 1, 2}, {1, 3}, {1}),
              StatusIs(kInvalid, "weights must have shape [2], got float32 [1] on cpu"));
  EXPECT_THAT(Mask::FromCsr(shape, Longs({0, 1, 1}), Longs({1}), Longs({1})),
              StatusIs(kInvalid, "weights must be floating point, got int64 [1] on cpu"));

  EXPECT_THAT(csr({1, 2, 2}, {1, 3}), StatusIs(kInvalid, "indptr[0] must be 0, got 1"));
  EXPECT_THAT(csr({0, 2, 1}, {1, 3}),
              StatusIs(kInvalid, "indptr[2] must be in [indptr[1] = 2, nnz = 2], got 1"));
  EXPECT_THAT(csr({0, 7, 7}, {1, 3}),
              StatusIs(kInvalid, "indptr[1] must be in [indptr[0] = 0, nnz = 2], got 7"));
  EXPECT_THAT(csr({0, -1, 2}, {1, 3}),
              StatusIs(kInvalid, "indptr[1] must be in [indptr[0] = 0, nnz = 2], got -1"));
  EXPECT_THAT(csr({0, 1, 1}, {1, 3}),
              StatusIs(kInvalid, "indptr must end at the number of indices 2, got 1"));
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const int64_t hostile : {int64_t{-1}, int64_t{4}, kMost, -kMost - 1}) {
    EXPECT_THAT(
        csr({0, 1, 2}, {1, hostile}),
        StatusIs(kInvalid, absl::StrCat("row 1: an index must be in [0, 4), got ", hostile)));
  }
  EXPECT_THAT(csr({0, 0, 2}, {3, 1}),
              StatusIs(kInvalid, "row 1: indices must ascend without repeats, got 3 before 1"));
  EXPECT_THAT(csr({0, 2, 2}, {3, 3}),
              StatusIs(kInvalid, "row 0: indices must ascend without repeats, got 3 before 3"));
  SA_EXPECT_OK(csr({0, 1, 2}, {3, 3}));  // not in one row
  for (const auto& [weight, text] :
       {std::pair{0.f, "0"}, std::pair{-1.f, "-1"}, std::pair{1.25f, "1.25"},
        std::pair{static_cast<float>(kNan), "nan"}}) {
    EXPECT_THAT(csr({0, 1, 2}, {1, 3}, {1, weight}),
                StatusIs(kInvalid,
                         absl::StrCat("row 1: the weight of key 3 must be in (0, 1], got ", text)));
  }
}

TEST(MaskErrors, RowIndices) {
  const MaskShape shape{1, 2, 1, 4};
  const auto rows = [&](std::vector<int64_t> indices, std::vector<float> weights = {}) {
    return Mask::FromRowIndices(
        shape, Longs(indices).view({1, 2, 1, 2}),
        weights.empty() ? at::Tensor() : Floats(weights).view({1, 2, 1, 2}));
  };
  EXPECT_THAT(Mask::FromRowIndices({-1, 2, 1, 4}, Longs({})),
              StatusIs(kInvalid, "mask shape must not be negative, got [-1, 2, 1, 4]"));
  EXPECT_THAT(
      Mask::FromRowIndices(shape, Longs({0, 1})),
      StatusIs(kInvalid, "row indices must have shape [1, 2, 1, -1], got int64 [2] on cpu"));
  EXPECT_THAT(Mask::FromRowIndices(shape, at::zeros({1, 2, 1, 2})),
              StatusIs(kInvalid, HasSubstr("row indices must be int64 or int32")));
  EXPECT_THAT(
      Mask::FromRowIndices(shape, at::zeros({1, 2, 1, 2}, at::kInt), at::ones({1, 2, 1, 1})),
      StatusIs(kInvalid,
               "row weights must have shape [1, 2, 1, 2], got float32 [1, 2, 1, 1] on cpu"));
  EXPECT_THAT(Mask::FromRowIndices(shape, at::zeros({1, 2, 1, 2}, at::kInt),
                                   at::ones({1, 2, 1, 2}, at::kLong)),
              StatusIs(kInvalid, HasSubstr("row weights must be floating point")));
  EXPECT_THAT(rows({0, 1, 2, 2}),
              StatusIs(kInvalid, "row 1: indices must ascend without repeats, got 2 before 2"));
  EXPECT_THAT(rows({0, 1, 4, 0}), StatusIs(kInvalid, "row 1: an index must be in [0, 4), got 4"));
  EXPECT_THAT(rows({0, -2, 1, 0}), StatusIs(kInvalid, "row 0: an index must be in [0, 4), got -2"));
  EXPECT_THAT(rows({3, 1, 1, 0}, {1, 0, 1, 1}),
              StatusIs(kInvalid, "row 0: the weight of key 1 must be in (0, 1], got 0"));
  EXPECT_THAT(Mask::FromRowIndices(shape, at::full({1, 2, 1, 0}, 0, at::kLong))->Density(), 0);
}

}  // namespace
}  // namespace sparse_attention
