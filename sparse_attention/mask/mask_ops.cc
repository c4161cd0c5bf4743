#include "sparse_attention/mask/mask_ops.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {

absl::StatusOr<Mask> Union(const Mask& a, const Mask& b) {
  if (a.shape() != b.shape()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot unite masks of shapes ", ToString(a.shape()), " and ", ToString(b.shape())));
  }
  if (a.device() != b.device()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot unite masks on ", a.device().str(), " and ", b.device().str()));
  }
  if (a.is_full() || b.is_empty()) return a;
  if (b.is_full() || a.is_empty()) return b;
  return CatchTorch([&]() -> absl::StatusOr<Mask> {
    at::Tensor sum = a.ToDense();
    sum.add_(b.is_dense() ? b.dense_weights() : b.ToDense()).clamp_(0, 1);
    return Mask::AdoptDense(sum);
  });
}

absl::StatusOr<at::Tensor> ApplyInverseWeights(const Mask& mask, const at::Tensor& x) {
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    const MaskShape& s = mask.shape();
    SA_RETURN_IF_ERROR(CheckShape(x, {s.batch, s.heads, s.queries, s.keys}, "x"));
    if (x.device() != mask.device()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "x must be on the mask's device ", mask.device().str(), ", got ", DescribeTensor(x)));
    }
    const at::Tensor values = x.to(at::kFloat);
    if (mask.is_full()) return values.clone();
    const at::Tensor zero = at::zeros({}, values.options());
    if (mask.is_empty()) return at::zeros(values.sizes(), values.options());
    const at::Tensor weights = mask.is_dense() ? mask.dense_weights() : mask.ToDense();
    return at::where(weights.gt(0), values.div(weights), zero);
  });
}

absl::StatusOr<Mask> SelectHeads(const std::vector<Mask>& masks, const std::vector<int>& choice) {
  SA_CHECK(!masks.empty());
  const MaskShape& shape = masks[0].shape();
  SA_CHECK(static_cast<int64_t>(choice.size()) == shape.heads);
  return CatchTorch([&]() -> absl::StatusOr<Mask> {
    std::vector<at::Tensor> dense;
    for (const Mask& mask : masks) {
      SA_CHECK(mask.shape() == shape);
      dense.push_back(mask.ToDense());
    }
    at::Tensor result = at::empty_like(dense[0]);
    for (int64_t head = 0; head < shape.heads; ++head) {
      SA_CHECK(choice[head] >= 0 && choice[head] < static_cast<int>(masks.size()));
      result.select(1, head).copy_(dense[choice[head]].select(1, head));
    }
    return Mask::AdoptDense(result);
  });
}

absl::StatusOr<MaskCost> MeasureMask(const Mask& mask, int64_t kv_heads,
                                     const std::optional<at::Tensor>& visible) {
  return CatchTorch([&]() -> absl::StatusOr<MaskCost> {
    const MaskShape& s = mask.shape();
    if (kv_heads <= 0 || s.heads % kv_heads != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("query heads ", s.heads, " must be a multiple of KV heads ", kv_heads));
    }
    MaskCost cost;
    if (s.elements() == 0) {
      cost.empty_rows = s.rows();
      return cost;
    }
    if (visible.has_value() &&
        !(visible->scalar_type() == at::kBool &&
          at::is_expandable_to(visible->sizes(), {s.batch, s.heads, s.queries, s.keys}))) {
      return absl::InvalidArgumentError(absl::StrCat("visible must be bool and broadcast to ",
                                                     ToString(s), ", got ",
                                                     DescribeTensor(*visible)));
    }
    at::Tensor active = mask.ToActive();
    at::Tensor seen;
    if (visible.has_value()) {
      seen = visible->expand(active.sizes());
      active = active.logical_and_(seen);
      cost.visible = seen.sum().item<int64_t>();
      cost.empty_rows = seen.any(-1).logical_not().sum().item<int64_t>();
    } else {
      cost.visible = s.elements();
    }
    cost.active = active.sum().item<int64_t>();
    if (cost.visible == 0) return cost;
    cost.density = static_cast<double>(cost.active) / static_cast<double>(cost.visible);
    const std::vector<int64_t> grouped = {s.batch, kv_heads, s.heads / kv_heads, s.queries, s.keys};
    const int64_t rows_read = active.view(grouped).any(2).sum().item<int64_t>();
    const int64_t rows_visible = visible.has_value()
                                     ? seen.reshape(grouped).any(2).sum().item<int64_t>()
                                     : s.batch * kv_heads * s.queries * s.keys;
    cost.kv_rows_fraction = static_cast<double>(rows_read) / static_cast<double>(rows_visible);
    return cost;
  });
}

}  // namespace sparse_attention
