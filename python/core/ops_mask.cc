// torch.ops.sparse_attention_hub.mask_*: the arithmetic of the Python class Mask, whose masks are
// mutable, of any rank [..., n] and of any floating type, unlike sparse_attention::Mask.
//
// The index form is `indices` int64 [nnz], positions in the flattened mask, in any order;
// `ptr` int64 [rows + 1], how many entries the rows before have; `data` [nnz], the weights.
//
// Operators whose sizes follow from the arguments' are composed of LibTorch's, which gives them
// gradients and fake kernels. The others have fake kernels in Python, in _fake_kernels.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/ScalarType.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

namespace sparse_attention {
namespace {

using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

constexpr double kWeightEpsilon = 1e-6;  // the Python hub's; it cancels where weights are equal

// Division by a weight overflows in float16, so it is done in float32 at least.
at::ScalarType WideType(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor TimesInverse(const at::Tensor& x, const at::Tensor& weights) {
  const at::ScalarType type = at::result_type(x, weights);
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor w = weights.to(wide);
  const at::Tensor product = x.to(wide).mul(w.add(kWeightEpsilon).reciprocal());
  return at::where(w.ne(0), product, at::zeros({}, product.options())).to(type);
}

at::Tensor ApplyDense(const at::Tensor& x, const at::Tensor& weights) { return x.mul(weights); }

at::Tensor ApplyInverseDense(const at::Tensor& x, const at::Tensor& weights) {
  return TimesInverse(x, weights);
}

at::Tensor ScatterLike(const at::Tensor& x, const at::Tensor& indices, const at::Tensor& values) {
  at::Tensor flat = at::zeros_symint({x.sym_numel()}, values.options());
  return flat.index_put({indices}, values).view_symint(x.sym_sizes());
}

at::Tensor ApplyIndex(const at::Tensor& x, const at::Tensor& indices, const at::Tensor& data) {
  return ScatterLike(x, indices, x.reshape(-1).index_select(0, indices).mul(data));
}

at::Tensor ApplyInverseIndex(const at::Tensor& x, const at::Tensor& indices,
                             const at::Tensor& data) {
  return ScatterLike(x, indices, TimesInverse(x.reshape(-1).index_select(0, indices), data));
}

at::Tensor MergeDense(const at::Tensor& a, const at::Tensor& b) {
  return a.add(b.to(a.scalar_type())).clamp(0, 1);
}

// Of positions that are there twice, the last one counts (on the host).
at::Tensor IndexToDense(const at::Tensor& indices, const at::Tensor& data,
                        c10::SymIntArrayRef shape) {
  const c10::SymInt elements = c10::multiply_integers(shape.begin(), shape.end());
  at::Tensor flat = at::zeros_symint({elements}, data.options());
  return flat.index_put({indices}, data).view_symint(shape);
}

// `columns` and `data` [..., k] to [..., n].
at::Tensor RowWiseToDense(const at::Tensor& columns, const at::Tensor& data, c10::SymInt n) {
  c10::SymDimVector shape(columns.sym_sizes().begin(), columns.sym_sizes().end());
  shape.back() = std::move(n);
  return at::zeros_symint(shape, data.options()).scatter(-1, columns.to(at::kLong), data);
}

at::Tensor CountPositive(const at::Tensor& weights) { return weights.gt(0).sum(); }

// Distinct positions of entries that are not zero.
at::Tensor CountIndex(const at::Tensor& indices, const at::Tensor& data) {
  const at::Tensor selected = indices.index({data.ne(0)});
  return at::zeros({}, indices.options()).add_(std::get<0>(at::_unique2(selected)).numel());
}

at::Tensor AllEqual(const at::Tensor& weights, double value) { return weights.eq(value).all(); }

at::Tensor PointersOfCounts(const at::Tensor& counts) {
  return at::cat({at::zeros({1}, counts.options()), counts.cumsum(0)});
}

at::Tensor PointersOf(const at::Tensor& indices, int64_t rows, int64_t n) {
  const at::Tensor row = n == 0 ? indices : indices.floor_divide(n);
  return PointersOfCounts(at::bincount(row, {}, rows).to(at::kLong));
}

// Row-major; zeros are left out.
Triple DenseToIndex(const at::Tensor& mask) {
  const at::Tensor rows =
      mask.dim() == 0 ? mask.reshape({1, 1})
                      : mask.reshape({c10::multiply_integers(mask.sizes().slice(0, mask.dim() - 1)),
                                      mask.size(-1)});
  const at::Tensor flat = rows.reshape(-1);
  const at::Tensor indices = at::nonzero(flat).squeeze(1);
  return {indices, PointersOfCounts(rows.ne(0).sum(1)), flat.index_select(0, indices)};
}

// With padding, columns below 0 stand for nothing.
Triple RowWiseToIndex(const at::Tensor& columns, const at::Tensor& data, int64_t n, bool padding) {
  const int64_t k = columns.size(-1);
  const at::Tensor by_row = columns.reshape({-1, k}).to(at::kLong);
  const int64_t rows = by_row.size(0);
  const auto options = by_row.options();
  const at::Tensor flat = by_row.add(at::arange(rows, options).mul(n).unsqueeze(1)).reshape(-1);
  if (!padding) {
    return {flat, at::arange(rows + 1, options).mul(k), data.reshape(-1).clone()};
  }
  const at::Tensor kept = by_row.ge(0);
  const at::Tensor chosen = at::nonzero(kept.reshape(-1)).squeeze(1);
  return {flat.index_select(0, chosen), PointersOfCounts(kept.sum(1)),
          data.reshape(-1).index_select(0, chosen)};
}

// Weights of one position add up, in `a`'s type, clamped to [0, 1]; ascending. Where one side has
// no entries the other keeps its order and its duplicates.
Triple MergeIndex(const at::Tensor& a, const at::Tensor& a_data, const at::Tensor& b,
                  const at::Tensor& b_data, int64_t rows, int64_t n) {
  const at::ScalarType type = a_data.scalar_type();
  const at::Tensor all = at::cat({a, b});
  const at::Tensor data = at::cat({a_data.to(WideType(a_data)), b_data.to(WideType(a_data))});
  if (a.numel() == 0 || b.numel() == 0) {
    return {all, PointersOf(all, rows, n), data.clamp(0, 1).to(type)};
  }
  const auto [positions, inverse, counts] = at::_unique2(all, /*sorted=*/true,
                                                         /*return_inverse=*/true);
  const at::Tensor sums = at::zeros(positions.sizes(), data.options()).index_add(0, inverse, data);
  return {positions, PointersOf(positions, rows, n), sums.clamp(0, 1).to(type)};
}

// Rows as sparse_attention::Mask takes them: (indptr, ascending unique columns, weights float32),
// of positions that are there twice the last one, zeros left out.
Triple IndexToCsr(const at::Tensor& indices, const at::Tensor& data, int64_t rows, int64_t n) {
  const auto [sorted, order] = indices.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  at::Tensor last = at::ones(sorted.sizes(), sorted.options().dtype(at::kBool));
  if (sorted.numel() > 1) {
    last.narrow(0, 0, sorted.numel() - 1)
        .copy_(sorted.narrow(0, 1, sorted.numel() - 1).ne(sorted.narrow(0, 0, sorted.numel() - 1)));
  }
  const at::Tensor weights = data.index_select(0, order).to(at::kFloat);
  const at::Tensor chosen = at::nonzero(last.logical_and_(weights.ne(0))).squeeze(1);
  const at::Tensor positions = sorted.index_select(0, chosen);
  return {PointersOf(positions, rows, n), n == 0 ? positions : positions.remainder(n),
          weights.index_select(0, chosen)};
}

void RegisterKernels(torch::Library& library) {
  library.impl("mask_count_index", &CountIndex);
  library.impl("mask_dense_to_index", &DenseToIndex);
  library.impl("mask_index_to_csr", &IndexToCsr);
  library.impl("mask_merge_index", &MergeIndex);
  library.impl("mask_row_wise_to_index", &RowWiseToIndex);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.set_python_module("sparse_attention_hub._fake_kernels");
  library.def("mask_all_equal(Tensor weights, float value) -> Tensor", &AllEqual);
  library.def("mask_apply_dense(Tensor x, Tensor weights) -> Tensor", &ApplyDense);
  library.def("mask_apply_index(Tensor x, Tensor indices, Tensor data) -> Tensor", &ApplyIndex);
  library.def("mask_apply_inverse_dense(Tensor x, Tensor weights) -> Tensor", &ApplyInverseDense);
  library.def("mask_apply_inverse_index(Tensor x, Tensor indices, Tensor data) -> Tensor",
              &ApplyInverseIndex);
  library.def("mask_count_positive(Tensor weights) -> Tensor", &CountPositive);
  library.def("mask_index_to_dense(Tensor indices, Tensor data, SymInt[] shape) -> Tensor",
              &IndexToDense);
  library.def("mask_merge_dense(Tensor a, Tensor b) -> Tensor", &MergeDense);
  library.def("mask_row_wise_to_dense(Tensor columns, Tensor data, SymInt n) -> Tensor",
              &RowWiseToDense);

  library.def("mask_count_index(Tensor indices, Tensor data) -> Tensor");
  library.def("mask_dense_to_index(Tensor mask) -> (Tensor, Tensor, Tensor)");
  library.def(
      "mask_index_to_csr(Tensor indices, Tensor data, SymInt rows, SymInt n) -> "
      "(Tensor, Tensor, Tensor)");
  library.def(
      "mask_merge_index(Tensor a, Tensor a_data, Tensor b, Tensor b_data, SymInt rows, SymInt n) "
      "-> (Tensor, Tensor, Tensor)");
  library.def(
      "mask_row_wise_to_index(Tensor columns, Tensor data, SymInt n, bool padding) -> "
      "(Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) { RegisterKernels(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) { RegisterKernels(library); }

}  // namespace sparse_attention
