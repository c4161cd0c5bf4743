#include "sparse_attention/attention/masked_attention.h"

#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "sparse_attention/attention/row_attention.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Softmax {
  at::Tensor probabilities;  // float32 [batch, heads, queries, keys]; 0 where not selected
  at::Tensor lse;            // [batch, heads, queries]
};

// Besides the logits and the mask's weights, one array of their size is made and then changed in
// place: at 131,072 keys and 32 heads each of them is 16 MB.
Softmax WeightedSoftmax(const AttentionInputs& in, const Mask& mask) {
  const at::Tensor logits = ComputeLogits(in);
  at::Tensor e, weights, unselected;
  if (mask.is_full()) {
    e = logits.clone();
  } else {
    weights = mask.is_dense() ? mask.dense_weights() : mask.ToDense();
    unselected = weights.eq(0);
    e = logits.masked_fill(unselected, -kInfinity);
  }
  at::Tensor top = in.keys() == 0 ? at::full({in.batch(), in.query_heads(), in.queries(), 1},
                                             -kInfinity, logits.options())
                                  : e.amax(-1, /*keepdim=*/true);
  at::Tensor sink;
  if (in.sink_logits.has_value()) {
    sink = in.sink_logits->to(at::kFloat).view({1, in.query_heads(), 1, 1});
    top = at::maximum(top, sink);
  }
  // exp(x - top) with an infinite top is NaN: a row without keys subtracts 0 instead, a row with an
  // infinite logit counts its infinite keys.
  const at::Tensor infinite = top.eq(kInfinity);
  const at::Tensor shift = top.masked_fill(top.isinf(), 0);
  const auto exponentials = [&](at::Tensor x) {
    const at::Tensor counted = x.eq(kInfinity).logical_and_(infinite);
    return x.sub_(shift).exp_().masked_fill_(infinite, 0).masked_fill_(counted, 1);
  };
  e = exponentials(e);
  if (weights.defined()) e.div_(weights).masked_fill_(unselected, 0);
  at::Tensor sum = e.sum(-1, /*keepdim=*/true);
  if (sink.defined()) sum.add_(exponentials(sink.expand_as(top).clone()));
  const at::Tensor lse = at::where(top.isinf(), top, top.add(sum.log()));
  // Normalised before the product with V: a row with one key then multiplies its value by exactly
  // 1. The sum is 0 for a row without keys alone.
  return {e.div_(sum.masked_fill(sum.eq(0), 1)), lse.squeeze(-1)};
}

// A product with 0 cannot hide a NaN or an infinity that an unselected value holds, so rows that
// came out not finite are summed again over their selected keys alone.
void RepairRows(const AttentionInputs& in, const Mask& mask, const at::Tensor& probabilities,
                at::Tensor& out) {
  at::Tensor selected = mask.ToActive();
  if (const auto visible = VisibleKeys(in)) selected.logical_and_(*visible);
  const at::Tensor bad = out.isfinite().all(-1).logical_not_().nonzero();
  for (int64_t i = 0; i < bad.size(0); ++i) {
    const int64_t b = bad[i][0].item<int64_t>();
    const int64_t h = bad[i][1].item<int64_t>();
    const int64_t n = bad[i][2].item<int64_t>();
    const at::Tensor keys = selected[b][h][n].nonzero().squeeze(1);
    const at::Tensor p = probabilities[b][h][n].index_select(0, keys);
    const at::Tensor v = in.v[b][h / in.group_size()].index_select(0, keys).to(at::kFloat);
    out[b][h][n].copy_(p.unsqueeze(1).mul(v).sum(0));
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
    if (PrefersRows(in, mask)) return RowAttention(in, mask);
    const Softmax softmax = WeightedSoftmax(in, mask);
    at::Tensor out = WeightedValues(in, softmax.probabilities);
    if (!out.isfinite().all().item<bool>()) RepairRows(in, mask, softmax.probabilities, out);
    return AttentionState{out, softmax.lse};
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
    return WeightedSoftmax(in, mask).probabilities;
  });
}

absl::StatusOr<at::Tensor> RelativeOutputError(const at::Tensor& out, const at::Tensor& dense) {
  SA_RETURN_IF_ERROR(CheckRank(dense, 4, "dense"));
  SA_RETURN_IF_ERROR(CheckShape(out, dense.sizes().vec(), "out"));
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    // In float64, where no square overflows or vanishes.
    const at::Tensor wide = dense.to(at::kDouble);
    constexpr int64_t kChannels[] = {-1};
    const at::Tensor difference =
        at::linalg_vector_norm(out.to(at::kDouble).sub(wide), 2, kChannels);
    const at::Tensor error = difference.div(at::linalg_vector_norm(wide, 2, kChannels));
    return error.masked_fill_(difference.eq(0), 0).to(at::kFloat);
  });
}

}  // namespace sparse_attention
