// torch.ops.sparse_attention_hub: the efficient engine's kernels as operators, for models of one's
// own. python/sparse_attention_hub/ops.py documents them.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "python/core/op_error.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/attention_state.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/efficient_attention/decode.h"

namespace sparse_attention {
namespace {

using OutAndLse = std::tuple<at::Tensor, at::Tensor>;
using MaybeTensor = std::optional<at::Tensor>;

OutAndLse EfficientDecode(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const MaybeTensor& indices, const MaybeTensor& offsets,
                          const MaybeTensor& inverse_probabilities, const MaybeTensor& ranges,
                          const MaybeTensor& lengths, std::optional<double> scale,
                          std::optional<double> softcap, const MaybeTensor& sink_logits) {
  AttentionInputs in;
  in.q = q;
  in.k = k;
  in.v = v;
  in.scale = scale;
  in.softcap = softcap;
  in.sink_logits = sink_logits;
  absl::StatusOr<DecodeResult> result =
      Decode(in, {lengths, indices, offsets, inverse_probabilities, ranges});
  ThrowOpError(result.status());
  return {std::move(result->out), std::move(result->lse)};
}

// One meta tensor brings a call to the Meta kernels, whatever the others are, and the result would
// be memory that nobody wrote.
void CheckMeta(std::initializer_list<std::pair<MaybeTensor, const char*>> tensors) {
  for (const auto& [tensor, name] : tensors) {
    TORCH_CHECK_VALUE(!tensor.has_value() || tensor->is_meta(), name,
                      " must be on the meta device, as other arguments are, got ",
                      tensor->device());
  }
}

OutAndLse EfficientDecodeMeta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const MaybeTensor& indices, const MaybeTensor& offsets,
                              const MaybeTensor& inverse_probabilities, const MaybeTensor& ranges,
                              const MaybeTensor& lengths, std::optional<double>,
                              std::optional<double>, const MaybeTensor& sink_logits) {
  CheckMeta({{q, "q"},
             {k, "k"},
             {v, "v"},
             {indices, "indices"},
             {offsets, "offsets"},
             {inverse_probabilities, "inverse_probabilities"},
             {ranges, "ranges"},
             {lengths, "lengths"},
             {sink_logits, "sink_logits"}});
  for (const auto& [x, name] : {std::pair{&q, "q"}, {&k, "k"}, {&v, "v"}}) {
    TORCH_CHECK_VALUE(x->dim() == 4, name, " must have 4 dimensions, got ", x->dim());
  }
  return {
      at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2), v.sym_size(3)}, q.options()),
      at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2)},
                       q.options().dtype(at::kFloat))};
}

at::Tensor TopK(const at::Tensor& scores, int64_t k) {
  absl::StatusOr<at::Tensor> indices = ExactTopK(scores, k);
  ThrowOpError(indices.status());
  return *std::move(indices);
}

at::Tensor TopKMeta(const at::Tensor& scores, c10::SymInt k) {
  TORCH_CHECK_VALUE(scores.dim() > 0, "scores must have at least one dimension, got 0");
  auto sizes = scores.sym_sizes().vec();
  TORCH_CHECK_VALUE(k.sym_ge(0).expect_true(__FILE__, __LINE__) &&
                        k.sym_le(sizes.back()).expect_true(__FILE__, __LINE__),
                    "k must be in [0, ", sizes.back(), "], got ", k);
  sizes.back() = std::move(k);
  return at::empty_symint(sizes, scores.options().dtype(at::kLong));
}

// Merge's own checks are of shapes.
void CheckState(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& out_a,
                const std::string& side) {
  const at::ScalarType type = out.scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kHalf || type == at::kBFloat16, "out_", side,
                    " must be float32, float16 or bfloat16, got ", DescribeTensor(out));
  TORCH_CHECK_VALUE(type == out_a.scalar_type() && out.device() == out_a.device(), "out_", side,
                    " must have the type and device of out_a, ", DescribeTensor(out_a), ", got ",
                    DescribeTensor(out));
  TORCH_CHECK_VALUE(lse.scalar_type() == at::kFloat && lse.device() == out_a.device(), "lse_", side,
                    " must be float32 and on the device of out_a, ", out_a.device(), ", got ",
                    DescribeTensor(lse));
}

OutAndLse MergeStates(const at::Tensor& out_a, const at::Tensor& lse_a, const at::Tensor& out_b,
                      const at::Tensor& lse_b) {
  CheckState(out_a, lse_a, out_a, "a");
  CheckState(out_b, lse_b, out_a, "b");
  // In float32, and rounded once.
  absl::StatusOr<AttentionState> merged = Merge(AttentionState{out_a.to(at::kFloat), lse_a},
                                                AttentionState{out_b.to(at::kFloat), lse_b});
  ThrowOpError(merged.status());
  return {merged->out.to(out_a.scalar_type()).contiguous(), merged->lse.contiguous()};
}

OutAndLse MergeStatesMeta(const at::Tensor& out_a, const at::Tensor& lse_a, const at::Tensor& out_b,
                          const at::Tensor& lse_b) {
  CheckMeta({{out_a, "out_a"}, {lse_a, "lse_a"}, {out_b, "out_b"}, {lse_b, "lse_b"}});
  return {at::empty_symint(out_a.sym_sizes(), out_a.options()),
          at::empty_symint(lse_a.sym_sizes(), lse_a.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def(
      "efficient_decode(Tensor q, Tensor k, Tensor v, Tensor? indices=None, Tensor? offsets=None, "
      "Tensor? inverse_probabilities=None, Tensor? ranges=None, Tensor? lengths=None, "
      "float? scale=None, float? softcap=None, Tensor? sink_logits=None) -> (Tensor, Tensor)");
  library.def("exact_top_k(Tensor scores, SymInt k) -> Tensor");
  library.def(
      "merge_attention_states(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor, "
      "Tensor)");
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) {
  library.impl("efficient_decode", &EfficientDecode);
  library.impl("exact_top_k", &TopK);
  library.impl("merge_attention_states", &MergeStates);
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) {
  library.impl("merge_attention_states", &MergeStates);
}
// Otherwise a backward pass would leave gradients out with no more than a warning.
TORCH_LIBRARY_IMPL(sparse_attention_hub, Autograd, library) {
  for (const char* name : {"efficient_decode", "exact_top_k", "merge_attention_states"}) {
    library.impl(name, torch::autograd::autogradNotImplementedFallback());
  }
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, Meta, library) {
  library.impl("efficient_decode", &EfficientDecodeMeta);
  library.impl("exact_top_k", &TopKMeta);
  library.impl("merge_attention_states", &MergeStatesMeta);
}

}  // namespace sparse_attention
