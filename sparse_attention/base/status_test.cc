#include "sparse_attention/base/status.h"

#include <memory>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("x must be even, got 3");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  SA_ASSIGN_OR_RETURN(const int half, Half(x));
  SA_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::StatusOr<std::unique_ptr<int>> MakeUnique() { return std::make_unique<int>(7); }

absl::Status UseUnique() {
  SA_ASSIGN_OR_RETURN(std::unique_ptr<int> p, MakeUnique());
  SA_RETURN_IF_ERROR(Half(*p).status());
  return absl::OkStatus();
}

TEST(Status, AssignOrReturnPassesValuesAndErrors) {
  EXPECT_THAT(Quarter(8), IsOkAndHolds(2));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "x must be even, got 3"));
  EXPECT_THAT(UseUnique(), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(Status, AnnotateAddsThePathAndKeepsTheCode) {
  EXPECT_THAT(Annotate(Annotate(absl::NotFoundError("leaf"), "inner"), "outer"),
              StatusIs(absl::StatusCode::kNotFound, "outer: inner: leaf"));
  EXPECT_THAT(Annotate(absl::OkStatus(), "outer"), IsOk());
}

TEST(Status, MatchersTellErrorsApart) {
  EXPECT_THAT(absl::NotFoundError("a"), Not(IsOk()));
  EXPECT_THAT(absl::NotFoundError("a"), Not(StatusIs(absl::StatusCode::kInternal)));
  EXPECT_THAT(absl::NotFoundError("a"), Not(StatusIs(absl::StatusCode::kNotFound, HasSubstr("b"))));
  EXPECT_THAT(Half(4), Not(IsOkAndHolds(3)));
}

TEST(StatusDeathTest, ChecksEndTheProcessAndSayWhy) {
  EXPECT_DEATH(SA_CHECK(1 + 1 == 3), "check failed: 1 \\+ 1 == 3");
  EXPECT_DEATH(SA_CHECK_OK(Half(3)), "x must be even, got 3");
  SA_CHECK(true);
  SA_CHECK_OK(Half(2));
}

}  // namespace
}  // namespace sparse_attention
