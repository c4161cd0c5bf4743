#include "sparse_attention/base/torch_status.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include <stdexcept>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

TEST(CatchTorch, PassesResultsThrough) {
  EXPECT_THAT(CatchTorch([]() -> absl::StatusOr<int> { return 3; }), IsOkAndHolds(3));
  EXPECT_THAT(CatchTorch([]() -> absl::Status { return absl::NotFoundError("x"); }),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(CatchTorch, TurnsExceptionsIntoStatus) {
  EXPECT_THAT(CatchTorch([]() -> absl::StatusOr<at::Tensor> {
                return at::matmul(at::ones({2, 3}), at::ones({2, 3}));
              }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("LibTorch")));
  EXPECT_THAT(CatchTorch([]() -> absl::Status { throw std::bad_alloc(); }),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(CatchTorch([]() -> absl::Status { throw std::runtime_error("boom"); }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("boom")));
  EXPECT_THAT(CatchTorch([]() -> absl::Status { throw 3; }), StatusIs(absl::StatusCode::kInternal));
}

TEST(CatchTorch, MemoryExhaustionHasItsOwnCode) {
  EXPECT_THAT(
      CatchTorch([]() -> absl::StatusOr<at::Tensor> { return at::ones({int64_t{1} << 50}); }),
      StatusIs(absl::StatusCode::kResourceExhausted));
}

}  // namespace
}  // namespace sparse_attention
