// torch.ops.sparse_attention_hub.attend: one attention step of a sequence as an operator, for
// eager code and for torch.compile alike.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <utility>

#include "python/core/op_error.h"
#include "python/core/sequence.h"

namespace sparse_attention {
namespace {

at::Tensor Attend(at::Tensor sequence, const at::Tensor& query, const at::Tensor& key,
                  const at::Tensor& value, const std::optional<at::Tensor>& bias,
                  const std::optional<at::Tensor>& sink_logits, std::optional<double> scale,
                  std::optional<double> softcap, std::optional<int64_t> sliding_window, bool causal,
                  int64_t layer, std::optional<int64_t> first_query_position) {
  const auto found = Sequence::Find(sequence);
  ThrowOpError(found.status());
  AttentionInputs in;
  in.q = query;
  in.k = key;
  in.v = value;
  in.bias = bias;
  in.sink_logits = sink_logits;
  in.scale = scale;
  in.softcap = softcap;
  in.sliding_window = sliding_window;
  in.causal = causal;
  in.layer = layer;
  in.first_query_position = first_query_position;
  absl::StatusOr<at::Tensor> out = (*found)->Attend(in);
  ThrowOpError(out.status());
  return *std::move(out);
}

at::Tensor AttendMeta(at::Tensor, const at::Tensor& query, const at::Tensor&,
                      const at::Tensor& value, const std::optional<at::Tensor>&,
                      const std::optional<at::Tensor>&, std::optional<double>,
                      std::optional<double>, std::optional<int64_t>, bool, int64_t,
                      std::optional<int64_t>) {
  return at::empty_symint(
      {query.sym_size(0), query.sym_size(1), query.sym_size(2), value.sym_size(3)},
      query.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def(
      "attend(Tensor(a!) sequence, Tensor query, Tensor key, Tensor value, Tensor? bias, "
      "Tensor? sink_logits, float? scale, float? softcap, int? sliding_window, bool causal, "
      "int layer, int? first_query_position) -> Tensor");
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) { library.impl("attend", &Attend); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) { library.impl("attend", &Attend); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, Meta, library) { library.impl("attend", &AttendMeta); }

}  // namespace sparse_attention
