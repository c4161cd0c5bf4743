#include "sparse_attention/attention/attention_inputs.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"

namespace sparse_attention {
namespace {

// A piece of K or V that is converted to float32 stays below this size, so that the copy never
// doubles a long context's memory and is still in a cache when it is multiplied: at 131,072 keys,
// 8 KV heads and d 128 the logits take 47 ms of one core with 4 MB, 134 ms with 16 MB.
constexpr int64_t kPieceBytes = 4 << 20;

int64_t KeysPerPiece(const at::Tensor& x) {
  const int64_t bytes_per_key = x.size(0) * x.size(1) * x.size(3) * int64_t{sizeof(float)};
  return std::max<int64_t>(256, kPieceBytes / std::max<int64_t>(1, bytes_per_key));
}

absl::Status Invalid(absl::string_view message) { return absl::InvalidArgumentError(message); }

double LowestFinite(at::ScalarType type) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, "LowestFinite", [] {
    return static_cast<double>(std::numeric_limits<scalar_t>::lowest());
  });
}

absl::Status CheckDevice(const at::Tensor& tensor, const at::Tensor& q, absl::string_view name) {
  if (tensor.device() == q.device()) return absl::OkStatus();
  return Invalid(absl::StrCat(name, " must be on the device of q, ", q.device().str(), ", got ",
                              DescribeTensor(tensor)));
}

// Random draws are addressed by 32-bit positions.
constexpr int64_t kMostPositions = int64_t{1} << 32;

absl::Status ValidateOptions(const AttentionInputs& in) {
  if (in.scale.has_value() && !(std::isfinite(*in.scale) && *in.scale != 0)) {
    return Invalid(absl::StrCat("scale must be finite and not 0, got ", *in.scale));
  }
  if (in.softcap.has_value() && !(std::isfinite(*in.softcap) && *in.softcap > 0)) {
    return Invalid(absl::StrCat("softcap must be finite and > 0, got ", *in.softcap));
  }
  if (in.sliding_window.has_value() && *in.sliding_window < 1) {
    return Invalid(absl::StrCat("sliding_window must be >= 1, got ", *in.sliding_window));
  }
  if (in.layer < 0) return Invalid(absl::StrCat("layer must be >= 0, got ", in.layer));
  if (const auto first = in.first_query_position;
      first.has_value() && (*first < 0 || *first > kMostPositions - in.queries())) {
    return Invalid(
        absl::StrCat("first_query_position must be >= 0 and all positions below 2^32, got ", *first,
                     " and ", in.queries(), " queries"));
  }
  if (!in.first_query_position.has_value() && in.queries() > in.keys() &&
      (in.causal || in.sliding_window.has_value())) {
    return Invalid(absl::StrCat("first_query_position is needed where there are more queries (",
                                in.queries(), ") than keys (", in.keys(), ")"));
  }
  if (in.sink_logits.has_value()) {
    SA_RETURN_IF_ERROR(CheckShape(*in.sink_logits, {in.query_heads()}, "sink_logits"));
    SA_RETURN_IF_ERROR(CheckFloating(*in.sink_logits, "sink_logits"));
    SA_RETURN_IF_ERROR(CheckDevice(*in.sink_logits, in.q, "sink_logits"));
  }
  if (in.bias.has_value()) {
    const at::Tensor& bias = *in.bias;
    SA_RETURN_IF_ERROR(CheckRank(bias, 4, "bias"));
    SA_RETURN_IF_ERROR(CheckFloating(bias, "bias"));
    SA_RETURN_IF_ERROR(CheckDevice(bias, in.q, "bias"));
    const bool fits = (bias.size(0) == 1 || bias.size(0) == in.batch()) &&
                      (bias.size(1) == 1 || bias.size(1) == in.query_heads()) &&
                      bias.size(2) == in.queries() && bias.size(3) >= in.keys();
    if (!fits) {
      return Invalid(absl::StrCat("bias must have shape [", in.batch(), " or 1, ", in.query_heads(),
                                  " or 1, ", in.queries(), ", >= ", in.keys(), "], got ",
                                  DescribeTensor(bias)));
    }
  }
  if (in.memo != nullptr && in.memo->logits.defined()) {
    const MaskShape s = in.mask_shape();
    SA_RETURN_IF_ERROR(CheckShape(in.memo->logits, {s.batch, s.heads, s.queries, s.keys},
                                  "memo of these inputs: logits"));
  }
  return absl::OkStatus();
}

}  // namespace

at::Tensor GroupRows(const at::Tensor& x, int64_t kv_heads) {
  return x.reshape({x.size(0), kv_heads, (x.size(1) / kv_heads) * x.size(2), x.size(3)});
}

at::Tensor UngroupRows(const at::Tensor& x, int64_t query_heads) {
  const int64_t rows = x.size(1) * x.size(2);
  return x.reshape({x.size(0), query_heads, query_heads == 0 ? 0 : rows / query_heads, x.size(3)});
}

double AttentionInputs::effective_scale() const {
  return scale.value_or(1 / std::sqrt(static_cast<double>(dim())));
}

absl::Status ValidateInputs(const AttentionInputs& in) {
  SA_RETURN_IF_ERROR(CheckRank(in.q, 4, "q"));
  SA_RETURN_IF_ERROR(CheckRank(in.k, 4, "k"));
  SA_RETURN_IF_ERROR(CheckRank(in.v, 4, "v"));
  if (in.q.scalar_type() != at::kFloat && in.q.scalar_type() != at::kHalf &&
      in.q.scalar_type() != at::kBFloat16) {
    return Invalid(
        absl::StrCat("q must be float32, float16 or bfloat16, got ", DescribeTensor(in.q)));
  }
  SA_RETURN_IF_ERROR(CheckShape(in.k, {in.batch(), -1, -1, in.dim()}, "k"));
  SA_RETURN_IF_ERROR(CheckShape(in.v, {in.batch(), in.kv_heads(), in.keys(), -1}, "v"));
  for (const auto& [tensor, name] : {std::pair{in.k, "k"}, std::pair{in.v, "v"}}) {
    if (tensor.scalar_type() != in.q.scalar_type() || tensor.device() != in.q.device()) {
      return Invalid(absl::StrCat(name, " must have the type and device of q, ",
                                  DescribeTensor(in.q), ", got ", DescribeTensor(tensor)));
    }
  }
  if (in.dim() == 0) return Invalid("q must have at least one channel, got 0");
  if (in.kv_heads() == 0 || in.query_heads() % in.kv_heads() != 0) {
    return Invalid(absl::StrCat("query heads (", in.query_heads(),
                                ") must be a multiple of KV heads (", in.kv_heads(), ")"));
  }
  return ValidateOptions(in);
}

std::optional<at::Tensor> VisibleKeys(const AttentionInputs& in) {
  std::optional<at::Tensor> visible;
  const auto restrict_to = [&visible](const at::Tensor& keep) {
    visible = visible.has_value() ? visible->logical_and(keep) : keep;
  };
  const auto options = at::TensorOptions().dtype(at::kLong).device(in.q.device());
  const bool all_in_the_past = in.query_position(0) >= in.keys() - 1;
  if ((in.causal && !all_in_the_past) || in.sliding_window.has_value()) {
    const int64_t first = in.query_position(0);
    const at::Tensor positions = at::arange(first, first + in.queries(), options).unsqueeze(1);
    const at::Tensor keys = at::arange(in.keys(), options);
    if (in.causal) restrict_to(keys.le(positions).view({1, 1, in.queries(), in.keys()}));
    if (in.sliding_window.has_value()) {
      restrict_to(keys.gt(positions.sub(*in.sliding_window)).view({1, 1, in.queries(), in.keys()}));
    }
  }
  if (in.bias.has_value()) {
    const at::Tensor bias = in.bias->narrow(3, 0, in.keys());
    // Not `gt`: a NaN bias is visible, so that it reaches the output.
    restrict_to(bias.le(LowestFinite(bias.scalar_type()) / 2).logical_not());
  }
  return visible;
}

at::Tensor ComputeLogits(const AttentionInputs& in) {
  if (in.memo != nullptr && in.memo->logits.defined()) return in.memo->logits;
  const at::Tensor q = GroupRows(in.q.to(at::kFloat).mul(in.effective_scale()), in.kv_heads());
  at::Tensor logits = at::empty({in.batch(), in.kv_heads(), q.size(2), in.keys()}, q.options());
  if (in.k.scalar_type() == at::kFloat) {
    at::matmul_out(logits, q, in.k.transpose(2, 3));
  } else {
    const int64_t piece = KeysPerPiece(in.k);
    for (int64_t begin = 0; begin < in.keys(); begin += piece) {
      const int64_t length = std::min(piece, in.keys() - begin);
      const at::Tensor k = in.k.narrow(2, begin, length).to(at::kFloat);
      logits.narrow(3, begin, length).copy_(at::matmul(q, k.transpose(2, 3)));
    }
  }
  logits = logits.view({in.batch(), in.query_heads(), in.queries(), in.keys()});
  if (in.softcap.has_value()) logits.div_(*in.softcap).tanh_().mul_(*in.softcap);
  if (in.bias.has_value()) logits.add_(in.bias->narrow(3, 0, in.keys()));
  if (const auto visible = VisibleKeys(in); visible.has_value()) {
    logits.masked_fill_(visible->logical_not(), -std::numeric_limits<double>::infinity());
  }
  if (in.memo != nullptr) in.memo->logits = logits;
  return logits;
}

at::Tensor WeightedValues(const AttentionInputs& in, const at::Tensor& probabilities) {
  const at::Tensor p = GroupRows(probabilities, in.kv_heads());
  const std::vector<int64_t> shape = {in.batch(), in.query_heads(), in.queries(), in.value_dim()};
  if (in.v.scalar_type() == at::kFloat) return at::matmul(p, in.v).view(shape);
  at::Tensor out = at::zeros({in.batch(), in.kv_heads(), p.size(2), in.value_dim()}, p.options());
  const int64_t piece = KeysPerPiece(in.v);
  for (int64_t begin = 0; begin < in.keys(); begin += piece) {
    const int64_t length = std::min(piece, in.keys() - begin);
    const at::Tensor v = in.v.narrow(2, begin, length).to(at::kFloat);
    out.add_(at::matmul(p.narrow(3, begin, length), v));
  }
  return out.view(shape);
}

}  // namespace sparse_attention
