#include "sparse_attention/attention/masked_products.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

TEST(MaskedProducts, AreThoseOfTheMask) {
  RandomTensors random(1);
  for (at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (int64_t dim : {1, 7, 16, 40}) {
      const at::Tensor q = random.Normal({2, 4, 3, dim}), k = random.Normal({2, 2, 30, dim}, type);
      const at::Tensor mask = random.Uniform({2, 4, 3, 30}).lt(0.3);
      const at::Tensor all =
          at::matmul(q, k.to(at::kFloat).repeat_interleave(2, 1).transpose(2, 3));
      EXPECT_THAT(MaskedProducts(q, k, mask),
                  TensorNear(all.masked_select(mask), {.absolute_eps = 128}));
    }
  }
}

TEST(MaskedProducts, APairDoesNotDependOnOthersNorOnStrides) {
  RandomTensors random(2);
  const at::Tensor q = random.Normal({1, 4, 3, 24}), k = random.Normal({1, 2, 50, 24}, at::kHalf);
  const at::Tensor mask = random.Uniform({1, 4, 3, 50}).lt(0.5);
  at::Tensor all = at::zeros({1, 4, 3, 50});
  all.masked_scatter_(mask, MaskedProducts(q, k, mask));
  const at::Tensor one = MaskedProducts(
      q.narrow(2, 1, 1), k.transpose(1, 2).contiguous().transpose(1, 2), mask.narrow(2, 1, 1));
  EXPECT_TRUE(one.equal(all.narrow(2, 1, 1).masked_select(mask.narrow(2, 1, 1))));
}

TEST(MaskedProducts, NothingToDo) {
  EXPECT_EQ(MaskedProducts(at::zeros({1, 2, 1, 4}), at::zeros({1, 1, 5, 4}),
                           at::zeros({1, 2, 1, 5}, at::kBool))
                .numel(),
            0);
  EXPECT_EQ(MaskedProducts(at::zeros({0, 2, 1, 4}), at::zeros({0, 1, 5, 4}),
                           at::zeros({0, 2, 1, 5}, at::kBool))
                .numel(),
            0);
}

}  // namespace
}  // namespace sparse_attention
