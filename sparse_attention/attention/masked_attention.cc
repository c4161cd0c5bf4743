#include "sparse_attention/attention/masked_attention.h"

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Weighted {
  at::Tensor exponentials;  // e_j / exp(top), [batch, heads, queries, keys]
  at::Tensor sum;           // [batch, heads, queries, 1], sink included
  at::Tensor lse;           // [batch, heads, queries]
};

Weighted WeightedExponentials(const AttentionInputs& in, const Mask& mask) {
  at::Tensor logits = ComputeLogits(in);
  at::Tensor weights;
  if (mask.is_empty()) {
    logits = at::zeros(logits.sizes(), logits.options()).fill_(-kInfinity);
  } else if (!mask.is_full()) {
    weights = mask.is_dense() ? mask.dense_weights() : mask.ToDense();
    logits = logits.masked_fill(weights.eq(0), -kInfinity);
  }
  at::Tensor top =
      in.keys() == 0 ? at::zeros({in.batch(), in.query_heads(), in.queries(), 1}, logits.options())
                           .fill_(-kInfinity)
                     : logits.amax(-1, /*keepdim=*/true);
  at::Tensor sink;
  if (in.sink_logits.has_value()) {
    sink = in.sink_logits->to(at::kFloat).view({1, in.query_heads(), 1, 1});
    top = at::maximum(top, sink);
  }
  // exp(x - top) with an infinite top is NaN: a row without keys subtracts 0 instead, a row with an
  // infinite logit counts its infinite keys.
  const at::Tensor infinite = top.eq(kInfinity);
  at::Tensor e = logits.sub(at::where(top.isinf(), 0.0, top)).exp_();
  if (infinite.any().item<bool>()) {
    e = at::where(infinite, logits.eq(kInfinity).to(at::kFloat), e);
  }
  if (weights.defined()) e = e.div_(at::where(weights.gt(0), weights, 1.0));
  at::Tensor sum = e.sum(-1, /*keepdim=*/true);
  if (sink.defined()) {
    sum = sum.add(at::where(infinite, sink.eq(kInfinity).to(at::kFloat),
                            sink.sub(at::where(top.isinf(), 0.0, top)).exp_()));
  }
  const at::Tensor lse = at::where(top.isinf(), top, top.add(sum.log()));
  return {e, sum, lse.squeeze(-1)};
}

// A product with 0 cannot hide a NaN or an infinity that an unselected value holds, so rows that
// came out not finite are summed again over their selected keys alone.
void RepairRows(const AttentionInputs& in, const at::Tensor& probabilities, at::Tensor& out) {
  const at::Tensor bad = out.isfinite().all(-1).logical_not().nonzero();
  for (int64_t i = 0; i < bad.size(0); ++i) {
    const int64_t b = bad[i][0].item<int64_t>();
    const int64_t h = bad[i][1].item<int64_t>();
    const int64_t n = bad[i][2].item<int64_t>();
    const at::Tensor p = probabilities[b][h][n];
    const at::Tensor selected = p.ne(0).nonzero().squeeze(1);
    const at::Tensor v = in.v[b][h / in.group_size()].index_select(0, selected).to(at::kFloat);
    out[b][h][n].copy_(p.index_select(0, selected).unsqueeze(1).mul(v).sum(0));
  }
}

absl::Status CheckMask(const AttentionInputs& in, const Mask& mask) {
  if (mask.shape() != in.mask_shape() || mask.device() != in.q.device()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the mask must have shape ", ToString(in.mask_shape()), " on ",
                     in.q.device().str(), ", got ", mask.ToString(), " on ", mask.device().str()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AttentionState> MaskedAttention(const AttentionInputs& in, const Mask& mask) {
  return CatchTorch([&]() -> absl::StatusOr<AttentionState> {
    SA_RETURN_IF_ERROR(ValidateInputs(in));
    SA_RETURN_IF_ERROR(CheckMask(in, mask));
    const Weighted weighted = WeightedExponentials(in, mask);
    // Normalised before the product: a row with one key then multiplies its value by exactly 1.
    const at::Tensor probabilities =
        weighted.exponentials.div(at::where(weighted.sum.eq(0), 1.0, weighted.sum));
    at::Tensor out = WeightedValues(in, probabilities);
    if (!out.isfinite().all().item<bool>()) RepairRows(in, probabilities, out);
    return AttentionState{out, weighted.lse};
  });
}

absl::StatusOr<AttentionState> DenseAttention(const AttentionInputs& in) {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  return MaskedAttention(in, Mask::MakeFull(in.mask_shape(), in.q.device()));
}

absl::StatusOr<at::Tensor> MaskedAttentionWeights(const AttentionInputs& in, const Mask& mask) {
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    SA_RETURN_IF_ERROR(ValidateInputs(in));
    SA_RETURN_IF_ERROR(CheckMask(in, mask));
    const Weighted weighted = WeightedExponentials(in, mask);
    return weighted.exponentials.div(at::where(weighted.sum.eq(0), 1.0, weighted.sum));
  });
}

absl::StatusOr<at::Tensor> RelativeOutputError(const at::Tensor& out, const at::Tensor& dense) {
  SA_RETURN_IF_ERROR(CheckRank(dense, 4, "dense"));
  SA_RETURN_IF_ERROR(CheckShape(out, dense.sizes().vec(), "out"));
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    const at::Tensor difference =
        at::linalg_vector_norm(out.to(at::kFloat).sub(dense), 2, at::IntArrayRef{-1});
    const at::Tensor norm = at::linalg_vector_norm(dense.to(at::kFloat), 2, at::IntArrayRef{-1});
    return at::where(difference.eq(0), 0.0, difference.div(norm));
  });
}

}  // namespace sparse_attention
