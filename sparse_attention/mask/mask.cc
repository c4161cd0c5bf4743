#include "sparse_attention/mask/mask.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

std::vector<int64_t> Sizes(const MaskShape& s) { return {s.batch, s.heads, s.queries, s.keys}; }

at::TensorOptions Floats(at::Device device) {
  return at::TensorOptions().dtype(at::kFloat).device(device);
}

at::TensorOptions Longs(at::Device device) {
  return at::TensorOptions().dtype(at::kLong).device(device);
}

// The arrays are on the host; one loop names the first row that breaks a rule.
absl::Status CheckCsr(const MaskShape& shape, const at::Tensor& indptr, const at::Tensor& indices,
                      const at::Tensor& weights) {
  const int64_t* ptr = indptr.const_data_ptr<int64_t>();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  const float* weight = weights.const_data_ptr<float>();
  const int64_t nnz = indices.numel();
  if (ptr[0] != 0) {
    return absl::InvalidArgumentError(absl::StrCat("indptr[0] must be 0, got ", ptr[0]));
  }
  for (int64_t row = 0; row < shape.rows(); ++row) {
    if (ptr[row + 1] < ptr[row] || ptr[row + 1] > nnz) {
      return absl::InvalidArgumentError(absl::StrCat("indptr[", row + 1, "] must be in [indptr[",
                                                     row, "] = ", ptr[row], ", nnz = ", nnz,
                                                     "], got ", ptr[row + 1]));
    }
    for (int64_t i = ptr[row]; i < ptr[row + 1]; ++i) {
      if (index[i] < 0 || index[i] >= shape.keys) {
        return absl::InvalidArgumentError(absl::StrCat("row ", row, ": an index must be in [0, ",
                                                       shape.keys, "), got ", index[i]));
      }
      if (i > ptr[row] && index[i] <= index[i - 1]) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", row, ": indices must ascend without repeats, got ", index[i - 1],
                         " before ", index[i]));
      }
      if (!(weight[i] > 0 && weight[i] <= 1)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "row ", row, ": the weight of key ", index[i], " must be in (0, 1], got ", weight[i]));
      }
    }
  }
  if (ptr[shape.rows()] != nnz) {
    return absl::InvalidArgumentError(absl::StrCat("indptr must end at the number of indices ", nnz,
                                                   ", got ", ptr[shape.rows()]));
  }
  return absl::OkStatus();
}

// Zeros of the shape and the type of `values`, with `values` at the entries of `csr`.
at::Tensor Scatter(const MaskShape& shape, const Mask::Csr& csr, const at::Tensor& values) {
  const at::Tensor dense = at::zeros(Sizes(shape), values.options());
  const at::Tensor rows = at::arange(shape.rows(), csr.indices.options())
                              .repeat_interleave(csr.indptr.diff(), 0, csr.indices.numel());
  dense.view({-1}).index_put_({rows.mul(shape.keys).add_(csr.indices)}, values);
  return dense;
}

absl::Status CheckShapeValue(const MaskShape& s) {
  if (s.batch < 0 || s.heads < 0 || s.queries < 0 || s.keys < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("mask shape must not be negative, got ", ToString(s)));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ToString(const MaskShape& s) {
  return absl::StrCat("[", s.batch, ", ", s.heads, ", ", s.queries, ", ", s.keys, "]");
}

Mask::Mask(const MaskShape& shape, at::Device device, Representation representation)
    : shape_(shape), device_(device), representation_(std::move(representation)) {}

Mask Mask::MakeEmpty(const MaskShape& shape, at::Device device) {
  return Mask(shape, device, Empty{});
}

Mask Mask::MakeFull(const MaskShape& shape, at::Device device) {
  return Mask(shape, device, Full{});
}

absl::StatusOr<Mask> Mask::FromDense(const at::Tensor& weights) {
  return CatchTorch([&]() -> absl::StatusOr<Mask> {
    SA_RETURN_IF_ERROR(CheckRank(weights, 4, "mask weights"));
    const bool is_bool = weights.scalar_type() == at::kBool;
    if (!is_bool) SA_RETURN_IF_ERROR(CheckFloating(weights, "mask weights"));
    const at::Tensor copy =
        weights.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
    if (!is_bool) {
      // Written so that NaN fails.
      const at::Tensor wrong = copy.ge(0).logical_and_(copy.le(1)).logical_not_();
      if (wrong.any().item<bool>()) {
        const at::Tensor position = wrong.nonzero()[0].to(at::kCPU);
        const int64_t* index = position.const_data_ptr<int64_t>();
        return absl::InvalidArgumentError(
            absl::StrCat("mask weights[", absl::StrJoin(index, index + 4, ", "),
                         "] must be in [0, 1], got ", copy.masked_select(wrong)[0].item<float>()));
      }
    }
    return AdoptDense(copy);
  });
}

Mask Mask::AdoptDense(at::Tensor weights) {
  SA_CHECK(weights.dim() == 4 && weights.scalar_type() == at::kFloat);
  const MaskShape shape{weights.size(0), weights.size(1), weights.size(2), weights.size(3)};
  const at::Device device = weights.device();
  return Mask(shape, device, Dense{weights.contiguous()});
}

absl::StatusOr<Mask> Mask::FromCsr(const MaskShape& shape, const at::Tensor& indptr,
                                   const at::Tensor& indices, const at::Tensor& weights) {
  return CatchTorch([&]() -> absl::StatusOr<Mask> {
    SA_RETURN_IF_ERROR(CheckShapeValue(shape));
    SA_RETURN_IF_ERROR(CheckShape(indptr, {shape.rows() + 1}, "indptr"));
    SA_RETURN_IF_ERROR(CheckRank(indices, 1, "indices"));
    SA_RETURN_IF_ERROR(CheckIndexType(indptr, "indptr"));
    SA_RETURN_IF_ERROR(CheckIndexType(indices, "indices"));
    at::Tensor host_weights;
    if (weights.defined()) {
      SA_RETURN_IF_ERROR(CheckShape(weights, {indices.numel()}, "weights"));
      SA_RETURN_IF_ERROR(CheckFloating(weights, "weights"));
      host_weights = weights.to(at::kCPU, at::kFloat, false, /*copy=*/true).contiguous();
    } else {
      host_weights = at::ones({indices.numel()}, Floats(at::kCPU));
    }
    const at::Tensor host_ptr = indptr.to(at::kCPU, at::kLong, false, true).contiguous();
    const at::Tensor host_indices = indices.to(at::kCPU, at::kLong, false, true).contiguous();
    SA_RETURN_IF_ERROR(CheckCsr(shape, host_ptr, host_indices, host_weights));
    const at::Device device = indices.device();
    return Mask(shape, device,
                Csr{host_ptr.to(device), host_indices.to(device), host_weights.to(device)});
  });
}

absl::StatusOr<Mask> Mask::FromRowIndices(const MaskShape& shape, const at::Tensor& indices,
                                          const at::Tensor& weights) {
  return CatchTorch([&]() -> absl::StatusOr<Mask> {
    SA_RETURN_IF_ERROR(CheckShapeValue(shape));
    SA_RETURN_IF_ERROR(
        CheckShape(indices, {shape.batch, shape.heads, shape.queries, -1}, "row indices"));
    SA_RETURN_IF_ERROR(CheckIndexType(indices, "row indices"));
    if (weights.defined()) {
      SA_RETURN_IF_ERROR(CheckShape(weights, indices.sizes().vec(), "row weights"));
      SA_RETURN_IF_ERROR(CheckFloating(weights, "row weights"));
    }
    const int64_t columns = indices.size(3);
    const at::Tensor flat = indices.to(at::kLong).reshape({shape.rows(), columns});
    const auto [sorted, order] = flat.sort(/*dim=*/1);
    const at::Tensor kept = sorted.ne(-1);
    const at::Tensor indptr =
        at::cat({at::zeros({1}, Longs(flat.device())), kept.sum(1).cumsum(0)});
    at::Tensor sorted_weights;
    if (weights.defined()) {
      sorted_weights =
          weights.reshape({shape.rows(), columns}).gather(1, order).masked_select(kept);
    }
    return FromCsr(shape, indptr, sorted.masked_select(kept), sorted_weights);
  });
}

at::Tensor Mask::ToDense() const {
  if (is_full()) return at::ones(Sizes(shape_), Floats(device_));
  if (is_dense()) return dense_weights().clone();
  if (is_empty()) return at::zeros(Sizes(shape_), Floats(device_));
  const Csr& csr = std::get<Csr>(representation_);
  return Scatter(shape_, csr, csr.weights);
}

at::Tensor Mask::ToActive() const {
  const at::TensorOptions bools = Floats(device_).dtype(at::kBool);
  if (is_full()) return at::ones(Sizes(shape_), bools);
  if (is_dense()) return dense_weights().gt(0);
  if (is_empty()) return at::zeros(Sizes(shape_), bools);
  const Csr& csr = std::get<Csr>(representation_);
  return Scatter(shape_, csr, at::ones({csr.indices.numel()}, bools));
}

Mask::Csr Mask::ToCsr() const {
  if (const Csr* csr = std::get_if<Csr>(&representation_)) return *csr;
  const int64_t rows = shape_.rows();
  if (is_empty()) {
    return {at::zeros({rows + 1}, Longs(device_)), at::empty({0}, Longs(device_)),
            at::empty({0}, Floats(device_))};
  }
  if (is_full()) {
    return {at::arange(rows + 1, Longs(device_)).mul_(shape_.keys),
            at::arange(shape_.keys, Longs(device_)).repeat({rows}),
            at::ones({shape_.elements()}, Floats(device_))};
  }
  const at::Tensor flat = dense_weights().view({rows, shape_.keys});
  const at::Tensor active = flat.gt(0);
  const at::Tensor positions = at::nonzero(active);
  return {at::cat({at::zeros({1}, Longs(device_)), active.sum(1).cumsum(0)}),
          positions.select(1, 1).contiguous(), flat.masked_select(active)};
}

Mask Mask::Normalized() const {
  if (is_empty() || is_full()) return *this;
  if (const Csr* csr = std::get_if<Csr>(&representation_)) {
    if (csr->indices.numel() == 0) return MakeEmpty(shape_, device_);
    if (csr->indices.numel() == shape_.elements() && csr->weights.eq(1).all().item<bool>()) {
      return MakeFull(shape_, device_);
    }
    return *this;
  }
  if (dense_weights().eq(0).all().item<bool>()) return MakeEmpty(shape_, device_);
  if (dense_weights().eq(1).all().item<bool>()) return MakeFull(shape_, device_);
  return *this;
}

double Mask::Density() const {
  if (is_full()) return 1;
  if (is_empty() || shape_.elements() == 0) return 0;
  const int64_t active = is_csr() ? std::get<Csr>(representation_).indices.numel()
                                  : dense_weights().gt(0).sum().item<int64_t>();
  return static_cast<double>(active) / static_cast<double>(shape_.elements());
}

std::string Mask::ToString() const {
  std::string kind = is_empty() ? "empty" : is_full() ? "full" : is_dense() ? "dense" : "csr";
  if (const Csr* csr = std::get_if<Csr>(&representation_)) {
    absl::StrAppend(&kind, ", nnz ", csr->indices.numel());
  }
  return absl::StrCat("Mask(", sparse_attention::ToString(shape_), ", ", kind, ")");
}

}  // namespace sparse_attention
