// torch.ops.sparse_attention_hub.*: the steps of attention under a mask as the Python hub takes
// them one by one. All in float32, composed of LibTorch's operators, which gives them gradients and
// fake kernels.
//
// In contrast to sparse_attention::MaskedAttention a weight p counts 1 / (p + 1e-6), as in the hub,
// and exponentials are results of their own.
#include <ATen/core/Tensor.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <tuple>

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kWeightEpsilon = 1e-6;
// Exponentials refer to the highest logit of all keys, as the hub's do. Where the selected keys lie
// further below it, they would leave the range of float32, and their own highest takes its place.
constexpr double kLargestGap = 64;

at::Tensor Scalar(const at::Tensor& like, double value) {
  return at::zeros({}, like.options()).fill_(value);
}

// x [batch, heads, n, dim] times y [batch, KV heads, ...]: query heads of a group as rows of one
// product, without repeating y.
at::Tensor GroupedMatmul(const at::Tensor& x, const at::Tensor& y) {
  const c10::SymInt groups = x.sym_size(1) / y.sym_size(1);
  const at::Tensor rows =
      x.reshape_symint({x.sym_size(0), y.sym_size(1), groups * x.sym_size(2), x.sym_size(3)});
  return at::matmul(rows, y).reshape_symint(
      {x.sym_size(0), x.sym_size(1), x.sym_size(2), y.sym_size(3)});
}

at::Tensor Logits(const at::Tensor& queries, const at::Tensor& keys,
                  const std::optional<at::Tensor>& bias, double scaling) {
  const at::Tensor logits =
      GroupedMatmul(queries.to(at::kFloat), keys.to(at::kFloat).transpose(2, 3)).mul(scaling);
  if (!bias.has_value()) return logits;
  return logits.add(bias->narrow_symint(-1, 0, keys.sym_size(2)).to(at::kFloat));
}

// The maximum [batch, heads, queries, 1]; 0 of a row that is -inf all over.
at::Tensor RowMaximum(const at::Tensor& logits) {
  const at::Tensor highest = logits.amax(-1, /*keepdim=*/true);
  return at::where(highest.eq(-kInfinity), Scalar(highest, 0), highest);
}

at::Tensor AttentionRowMaximum(const at::Tensor& queries, const at::Tensor& keys,
                               const std::optional<at::Tensor>& bias, double scaling) {
  return RowMaximum(Logits(queries, keys, bias, scaling));
}

// (exp(logit - m) / (weight + 1e-6) where the weight is not 0, else 0; m [..., 1]).
std::tuple<at::Tensor, at::Tensor> MaskedExponentials(const at::Tensor& queries,
                                                      const at::Tensor& keys,
                                                      const std::optional<at::Tensor>& bias,
                                                      double scaling,
                                                      const std::optional<at::Tensor>& weights) {
  const at::Tensor logits = Logits(queries, keys, bias, scaling);
  const at::Tensor of_all = RowMaximum(logits);
  if (!weights.has_value()) return {logits.sub(of_all).exp(), of_all};
  const at::Tensor w = weights->to(at::kFloat);
  const at::Tensor none = Scalar(logits, -kInfinity);
  const at::Tensor of_selected = RowMaximum(at::where(w.ne(0), logits, none));
  const at::Tensor highest =
      at::where(of_all.sub(of_selected).le(kLargestGap), of_all, of_selected);
  const at::Tensor shifted = at::where(w.ne(0), logits.sub(highest), none);
  return {shifted.exp().mul(w.add(kWeightEpsilon).reciprocal()), highest};
}

at::Tensor RowSums(const at::Tensor& x) { return x.sum(-1, /*keepdim=*/true); }

// exponentials [batch, heads, queries, keys] times values [batch, KV heads or heads, keys, dim].
at::Tensor WeightedSums(const at::Tensor& exponentials, const at::Tensor& values) {
  return GroupedMatmul(exponentials, values.to(exponentials.scalar_type()));
}

// Moves all to the maximum of `row_maximum` and the head's sink, whose mass joins the denominator.
std::tuple<at::Tensor, at::Tensor, at::Tensor> AddSinks(const at::Tensor& numerator,
                                                        const at::Tensor& denominator,
                                                        const at::Tensor& exponentials,
                                                        const at::Tensor& row_maximum,
                                                        const at::Tensor& sinks) {
  const at::Tensor sink = sinks.to(at::kFloat).reshape({1, -1, 1, 1});
  const at::Tensor highest = at::maximum(row_maximum, sink);
  const at::Tensor factor = row_maximum.sub(highest).exp();
  return {numerator.mul(factor), denominator.mul(factor).add(sink.sub(highest).exp()),
          exponentials.mul(factor)};
}

// x / denominators, 0 in rows whose denominator is 0.
at::Tensor DivideRows(const at::Tensor& x, const at::Tensor& denominators) {
  const at::Tensor d = denominators.to(at::kFloat);
  const at::Tensor none = d.eq(0);
  return at::where(none, Scalar(d, 0), x.to(at::kFloat).div(at::where(none, Scalar(d, 1), d)));
}

// [batch, queries, heads, dim], of the queries' type.
at::Tensor DenseOutput(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                       const std::optional<at::Tensor>& bias, double scaling, double dropout) {
  std::optional<at::Tensor> added;
  if (bias.has_value()) {
    added = bias->narrow_symint(-1, 0, keys.sym_size(2)).to(queries.scalar_type());
  }
  return at::scaled_dot_product_attention(queries, keys, values, added, dropout,
                                          /*is_causal=*/false, scaling, /*enable_gqa=*/true)
      .transpose(1, 2)
      .contiguous();
}

// The index form of `draws` columns: the first budgets[0] belong to row 0 and so on. `budgets`
// [rows...] and `probabilities` have one number a row.
std::tuple<at::Tensor, at::Tensor, at::Tensor> SampledIndex(const at::Tensor& budgets,
                                                            const at::Tensor& probabilities,
                                                            const at::Tensor& draws,
                                                            c10::SymInt n) {
  const at::Tensor counts = budgets.reshape(-1).to(at::kLong);
  const at::Tensor ptr = at::cat({at::zeros({1}, counts.options()), counts.cumsum(0)});
  const at::Tensor places = at::arange(draws.sym_size(0), ptr.options()).add(1);
  const at::Tensor row = at::searchsorted(ptr, places).sub(1);
  const at::Tensor starts = at::arange(counts.sym_size(0), ptr.options()).mul(n);
  return {starts.index_select(0, row).add(draws), ptr,
          probabilities.reshape(-1).index_select(0, row)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def(
      "attention_row_maximum(Tensor queries, Tensor keys, Tensor? bias, float scaling) -> Tensor",
      &AttentionRowMaximum);
  library.def(
      "masked_exponentials(Tensor queries, Tensor keys, Tensor? bias, float scaling, "
      "Tensor? weights) -> (Tensor, Tensor)",
      &MaskedExponentials);
  library.def("row_sums(Tensor x) -> Tensor", &RowSums);
  library.def("weighted_sums(Tensor exponentials, Tensor values) -> Tensor", &WeightedSums);
  library.def(
      "add_sinks(Tensor numerator, Tensor denominator, Tensor exponentials, Tensor row_maximum, "
      "Tensor sinks) -> (Tensor, Tensor, Tensor)",
      &AddSinks);
  library.def("divide_rows(Tensor x, Tensor denominators) -> Tensor", &DivideRows);
  library.def(
      "dense_output(Tensor queries, Tensor keys, Tensor values, Tensor? bias, float scaling, "
      "float dropout) -> Tensor",
      &DenseOutput);
  library.def(
      "sampled_index(Tensor budgets, Tensor probabilities, Tensor draws, SymInt n) -> "
      "(Tensor, Tensor, Tensor)",
      &SampledIndex);
}

}  // namespace sparse_attention
