// What RowAttention means is tested as MaskedAttention; here is what its own way promises.
#include "sparse_attention/attention/row_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/where.h>

#include <memory>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

AttentionInputs Inputs(int64_t queries = 3, at::ScalarType type = at::kBFloat16) {
  RandomTensors random(1);
  AttentionInputs in;
  in.q = random.Normal({2, 4, queries, 40}, type);
  in.k = random.Normal({2, 2, 90, 40}, type);
  in.v = random.Normal({2, 2, 90, 24}, type);
  return in;
}

// A third of the entries, half of them sampled.
Mask SomeMask(const AttentionInputs& in) {
  const MaskShape s = in.mask_shape();
  const at::Tensor u = RandomTensors(2).Uniform({s.batch, s.heads, s.queries, s.keys});
  return Mask::AdoptDense(
      at::where(u.lt(1. / 6), 1., at::where(u.lt(1. / 3), 0.375, 0.)).to(at::kFloat));
}

TEST(RowAttention, ARowDependsNeitherOnItsBatchNorOnThreads) {
  for (at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const AttentionInputs in = Inputs(3, type);
    const Mask mask = SomeMask(in);
    const AttentionState both = RowAttention(in, mask);
    AttentionInputs second = in;
    second.q = in.q.narrow(0, 1, 1).narrow(2, 2, 1);
    second.k = in.k.narrow(0, 1, 1);
    second.v = in.v.narrow(0, 1, 1);
    const AttentionState alone = RowAttention(
        second, Mask::AdoptDense(mask.ToDense().narrow(0, 1, 1).narrow(2, 2, 1).contiguous()));
    EXPECT_THAT(alone.out, TensorEquals(both.out.narrow(0, 1, 1).narrow(2, 2, 1)));
    EXPECT_THAT(alone.lse, TensorEquals(both.lse.narrow(0, 1, 1).narrow(2, 2, 1)));
    const int threads = at::get_num_threads();
    at::set_num_threads(threads == 1 ? 3 : 1);
    const AttentionState other = RowAttention(in, mask);
    at::set_num_threads(threads);
    EXPECT_THAT(other.out, TensorEquals(both.out));
  }
}

TEST(RowAttention, TakesLogitsThatAreThere) {
  AttentionInputs in = Inputs();
  in.memo = std::make_shared<LogitsMemo>();
  in.memo->logits = RandomTensors(3).Normal({2, 4, 3, 90});
  const Mask mask = SomeMask(in);
  const at::Tensor e = in.memo->logits.exp()
                           .mul(mask.ToActive())
                           .div(at::where(mask.ToActive(), mask.ToDense(), 1.));
  EXPECT_THAT(RowAttention(in, mask).lse, TensorNear(e.sum(-1).log(), {.absolute_eps = 64}));
}

TEST(PrefersRows, WithFewQueriesAndAMaskThatIsNotFull) {
  const AttentionInputs in = Inputs(16);
  EXPECT_TRUE(PrefersRows(in, SomeMask(in)));
  EXPECT_FALSE(PrefersRows(in, Mask::MakeFull(in.mask_shape())));
  const AttentionInputs many = Inputs(17);
  EXPECT_FALSE(PrefersRows(many, SomeMask(many)));
}

}  // namespace
}  // namespace sparse_attention
