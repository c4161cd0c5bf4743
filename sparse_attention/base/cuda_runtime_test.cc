#include "sparse_attention/base/cuda_runtime.h"

#include <ATen/Context.h>
#include <ATen/ops/ones.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

TEST(LoadCuda, EitherMakesCudaTensorsPossibleOrSaysWhyNot) {
  const absl::Status status = LoadCuda();
  EXPECT_EQ(status.ok(), at::hasCUDA());
  if (status.ok()) {
    EXPECT_EQ(at::ones({3}, at::kCUDA).sum().item<float>(), 3);
  } else {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 ::testing::AnyOf(::testing::HasSubstr("no CUDA device"),
                                                  ::testing::HasSubstr("cannot be loaded"))));
  }
  EXPECT_EQ(LoadCuda(), status);
}

}  // namespace
}  // namespace sparse_attention
