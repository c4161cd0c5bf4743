#include "sparse_attention/base/tensor_check.h"

#include <ATen/ops/zeros.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(TensorCheck, RankAndShape) {
  const at::Tensor t = at::zeros({2, 3});
  EXPECT_THAT(CheckRank(t, 2, "q"), IsOk());
  EXPECT_THAT(CheckRank(t, 4, "q"),
              StatusIs(kInvalid, "q must have 4 dimensions, got float32 [2, 3] on cpu"));
  EXPECT_THAT(CheckShape(t, {2, -1}, "q"), IsOk());
  EXPECT_THAT(CheckShape(t, {2, 4}, "q"),
              StatusIs(kInvalid, "q must have shape [2, 4], got float32 [2, 3] on cpu"));
  EXPECT_THAT(CheckShape(t, {2}, "q"), StatusIs(kInvalid));
  EXPECT_THAT(CheckRank(at::Tensor(), 2, "q"), StatusIs(kInvalid, HasSubstr("undefined")));
}

TEST(TensorCheck, Types) {
  EXPECT_THAT(CheckFloating(at::zeros({1}, at::kBFloat16), "v"), IsOk());
  EXPECT_THAT(CheckFloating(at::zeros({1}, at::kInt), "v"),
              StatusIs(kInvalid, "v must be floating point, got int32 [1] on cpu"));
  EXPECT_THAT(CheckIndexType(at::zeros({1}, at::kLong), "i"), IsOk());
  EXPECT_THAT(CheckIndexType(at::zeros({1}, at::kBool), "i"),
              StatusIs(kInvalid, "i must be int64 or int32, got bool [1] on cpu"));
}

}  // namespace
}  // namespace sparse_attention
