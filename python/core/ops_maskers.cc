// Operators behind the methods that maskers offer beside add_mask: scores and choices as tensors.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <string>

#include "python/core/op_error.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The k highest scores where `previous` is 0, as indices [..., k]: highest first, the lowest index
// among equals. Positions that `previous` holds follow where there are too few others.
at::Tensor TopKOutside(const at::Tensor& scores, const at::Tensor& previous, int64_t k) {
  TORCH_CHECK_VALUE(scores.sizes() == previous.sizes(),
                    "previous_dense_mask and scores must have the same shape, got ",
                    previous.sizes(), " and ", scores.sizes());
  TORCH_CHECK_VALUE(k >= 0 && k <= scores.size(-1), "k must be in [0, ", scores.size(-1), "], got ",
                    k);
  const at::Tensor free = at::where(previous.ne(0), -kInfinity, scores.to(at::kFloat));
  return std::get<1>(free.sort(/*stable=*/true, -1, /*descending=*/true))
      .narrow(-1, 0, k)
      .contiguous();
}

at::Tensor TopKOutsideMeta(const at::Tensor& scores, const at::Tensor&, int64_t k) {
  auto sizes = scores.sym_sizes().vec();
  sizes.back() = k;
  return at::empty_symint(sizes, scores.options().dtype(at::kLong));
}

AttentionInputs InputsOf(const at::Tensor& queries, const at::Tensor& keys,
                         const std::optional<at::Tensor>& bias, double scale) {
  AttentionInputs in;
  in.q = queries;
  in.k = keys;
  in.v = keys;
  in.bias = bias;
  in.scale = scale;
  ThrowOpError(ValidateInputs(in));
  return in;
}

// float32 [batch, query heads, queries, keys], -inf at forbidden keys.
at::Tensor AttentionLogits(const at::Tensor& queries, const at::Tensor& keys,
                           const std::optional<at::Tensor>& bias, double scale) {
  return ComputeLogits(InputsOf(queries, keys, bias, scale));
}

// exp(logit - row maximum over all visible keys), 0 where `previous` is not, float32.
at::Tensor RemainingMass(const at::Tensor& queries, const at::Tensor& keys,
                         const std::optional<at::Tensor>& bias, double scale,
                         const at::Tensor& previous) {
  at::Tensor logits = ComputeLogits(InputsOf(queries, keys, bias, scale)).clone();
  TORCH_CHECK_VALUE(previous.sizes() == logits.sizes(), "previous_dense_mask must be ",
                    logits.sizes(), ", got ", previous.sizes());
  logits.masked_fill_(previous.ne(0), -kInfinity);
  const at::Tensor highest = logits.amax(-1, /*keepdim=*/true);
  return logits.sub_(at::where(highest.eq(-kInfinity), 0.0, highest)).exp_();
}

at::Tensor LogitsMeta(const at::Tensor& queries, const at::Tensor& keys,
                      const std::optional<at::Tensor>&, double) {
  return at::empty_symint(
      {queries.sym_size(0), queries.sym_size(1), queries.sym_size(2), keys.sym_size(2)},
      queries.options().dtype(at::kFloat));
}

at::Tensor MassMeta(const at::Tensor& queries, const at::Tensor& keys,
                    const std::optional<at::Tensor>& bias, double scale, const at::Tensor&) {
  return LogitsMeta(queries, keys, bias, scale);
}

at::Tensor Thresholds(const at::Tensor& scores, double top_p) {
  return TopPThresholds(scores, top_p, ThresholdRule::kGreater);
}

at::Tensor ThresholdsMeta(const at::Tensor& scores, double) {
  auto sizes = scores.sym_sizes().vec();
  sizes.back() = 1;
  return at::empty_symint(sizes, scores.options());
}

void Register(torch::Library& library) {
  library.impl("top_k_outside", &TopKOutside);
  library.impl("attention_logits", &AttentionLogits);
  library.impl("remaining_mass", &RemainingMass);
  library.impl("top_p_thresholds", &Thresholds);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def("top_k_outside(Tensor scores, Tensor previous, int k) -> Tensor");
  library.def("attention_logits(Tensor queries, Tensor keys, Tensor? bias, float scale) -> Tensor");
  library.def(
      "remaining_mass(Tensor queries, Tensor keys, Tensor? bias, float scale, Tensor previous) -> "
      "Tensor");
  library.def("top_p_thresholds(Tensor scores, float top_p) -> Tensor");
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) { Register(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) { Register(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, Meta, library) {
  library.impl("top_k_outside", &TopKOutsideMeta);
  library.impl("attention_logits", &LogitsMeta);
  library.impl("remaining_mass", &MassMeta);
  library.impl("top_p_thresholds", &ThresholdsMeta);
}

}  // namespace sparse_attention
