#include "sparse_attention/attention/reference_attention.h"

#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor Doubles(const at::Tensor& x) { return x.to(at::kDouble).contiguous(); }

double LowestFinite(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return std::numeric_limits<c10::Half>::lowest();
    case at::kBFloat16:
      return std::numeric_limits<c10::BFloat16>::lowest();
    case at::kFloat:
      return std::numeric_limits<float>::lowest();
    default:
      return std::numeric_limits<double>::lowest();
  }
}

}  // namespace

absl::StatusOr<ReferenceState> ReferenceAttention(const AttentionInputs& in, const Mask& mask) {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  if (mask.shape() != in.mask_shape() || !in.q.is_cpu()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the reference needs tensors on cpu and a mask of shape ", ToString(in.mask_shape()),
        ", got q on ", in.q.device().str(), " and ", mask.ToString()));
  }
  return CatchTorch([&]() -> absl::StatusOr<ReferenceState> {
    const int64_t heads = in.query_heads(), queries = in.queries(), keys = in.keys();
    const int64_t dim = in.dim(), value_dim = in.value_dim();
    const at::Tensor q = Doubles(in.q), k = Doubles(in.k), v = Doubles(in.v);
    const at::Tensor weights = Doubles(mask.ToDense());
    at::Tensor bias;
    double lowest = 0;
    if (in.bias.has_value()) {
      lowest = LowestFinite(in.bias->scalar_type());
      bias = Doubles(in.bias->narrow(3, 0, keys).expand({in.batch(), heads, queries, keys}));
    }
    at::Tensor sinks;
    if (in.sink_logits.has_value()) sinks = Doubles(*in.sink_logits);
    ReferenceState state{at::zeros({in.batch(), heads, queries, value_dim}, at::kDouble),
                         at::zeros({in.batch(), heads, queries}, at::kDouble)};
    for (int64_t row = 0; row < in.mask_shape().rows(); ++row) {
      const int64_t b = row / (heads * queries), h = row / queries % heads, i = row % queries;
      const int64_t kv = b * in.kv_heads() + h / in.group_size();
      const double* query = q.const_data_ptr<double>() + row * dim;
      std::vector<int64_t> selected;
      std::vector<double> logits;
      double top = in.sink_logits.has_value() ? sinks.const_data_ptr<double>()[h] : -kInfinity;
      for (int64_t j = 0; j < keys; ++j) {
        if (!(weights.const_data_ptr<double>()[row * keys + j] > 0)) continue;
        if (in.causal && j > in.query_position(i)) continue;
        if (in.sliding_window.has_value() && j <= in.query_position(i) - *in.sliding_window)
          continue;
        double x = 0;
        for (int64_t c = 0; c < dim; ++c) {
          x += query[c] * k.const_data_ptr<double>()[(kv * keys + j) * dim + c];
        }
        x *= in.effective_scale();
        if (in.softcap.has_value()) x = *in.softcap * std::tanh(x / *in.softcap);
        if (bias.defined()) {
          const double added = bias.const_data_ptr<double>()[row * keys + j];
          if (added <= lowest / 2) continue;
          x += added;
        }
        selected.push_back(j);
        logits.push_back(x);
        top = std::isnan(x) || x > top ? x : top;
      }
      double* out = state.out.data_ptr<double>() + row * value_dim;
      double* lse = state.lse.data_ptr<double>() + row;
      const auto share = [&top](double x) {
        if (std::isinf(top)) return x == top && top > 0 ? 1.0 : 0.0;
        return std::exp(x - top);
      };
      double sum = in.sink_logits.has_value() ? share(sinks.const_data_ptr<double>()[h]) : 0;
      for (size_t s = 0; s < selected.size(); ++s) {
        const double e =
            share(logits[s]) / weights.const_data_ptr<double>()[row * keys + selected[s]];
        sum += e;
        for (int64_t c = 0; c < value_dim; ++c) {
          out[c] += e * v.const_data_ptr<double>()[(kv * keys + selected[s]) * value_dim + c];
        }
      }
      for (int64_t c = 0; sum != 0 && c < value_dim; ++c) out[c] /= sum;
      *lse = std::isinf(top) ? top : top + std::log(sum);
    }
    return state;
  });
}

}  // namespace sparse_attention
