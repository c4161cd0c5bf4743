#include "sparse_attention/attention/attention_state.h"

#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>

#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// exp(lse - top), where equal infinities give 1 for +inf and 0 for -inf.
at::Tensor Share(const at::Tensor& lse, const at::Tensor& top) {
  const at::Tensor share = lse.sub(top).exp_();
  return at::where(lse.eq(top).logical_and_(top.isinf()), top.gt(0).to(share.scalar_type()), share);
}

}  // namespace

AttentionState EmptyState(at::IntArrayRef out_shape, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  return {at::zeros(out_shape, options),
          at::full(out_shape.slice(0, out_shape.size() - 1), -kInfinity, options)};
}

absl::StatusOr<AttentionState> Merge(const AttentionState& a, const AttentionState& b) {
  SA_RETURN_IF_ERROR(CheckRank(a.out, 4, "the first state's out"));
  SA_RETURN_IF_ERROR(
      CheckShape(a.lse, {a.out.size(0), a.out.size(1), a.out.size(2)}, "the first state's lse"));
  SA_RETURN_IF_ERROR(CheckShape(b.out, a.out.sizes().vec(), "the second state's out"));
  SA_RETURN_IF_ERROR(CheckShape(b.lse, a.lse.sizes().vec(), "the second state's lse"));
  return CatchTorch([&]() -> absl::StatusOr<AttentionState> {
    const at::Tensor top = at::maximum(a.lse, b.lse);
    const at::Tensor share_a = Share(a.lse, top);
    const at::Tensor share_b = Share(b.lse, top);
    const at::Tensor total = share_a.add(share_b);
    // Empty on both sides: the total is 0 and so must be the output. NaN passes through.
    const at::Tensor divisor = at::where(total.eq(0), 1.0, total).unsqueeze(-1);
    // A side without keys is left out rather than multiplied by 0, so that no NaN in it can leak.
    const auto part = [](const AttentionState& state, const at::Tensor& share) {
      return state.out.mul(share.unsqueeze(-1))
          .masked_fill_(state.lse.eq(-kInfinity).unsqueeze(-1), 0);
    };
    const at::Tensor out = part(a, share_a).add_(part(b, share_b)).div_(divisor);
    const at::Tensor lse = at::where(top.isinf(), top, top.add(total.log()));
    return AttentionState{out, lse};
  });
}

AttentionState ToBaseE(const Base2AttentionState& state) {
  return {state.out, state.lse.mul(std::log(2.0))};
}

Base2AttentionState ToBase2(const AttentionState& state) {
  return {state.out, state.lse.div(std::log(2.0))};
}

}  // namespace sparse_attention
