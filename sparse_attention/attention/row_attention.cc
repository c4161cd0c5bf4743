#include "sparse_attention/attention/row_attention.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "sparse_attention/attention/selected_keys.h"

namespace sparse_attention {
namespace {

constexpr int64_t kMostQueries = 16;
// Selected rows lie anywhere, so that the next ones must be asked for early: rows ahead, and bytes
// of a cache line.
constexpr int64_t kAhead = 16, kLine = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row: what it reads and where.
template <typename T>
struct Row {
  const float* q;  // scaled
  const T* k;      // of the KV head
  const T* v;
  int64_t k_stride, v_stride, dim, value_dim;
  const int32_t* keys;  // selected and visible
  int64_t count;
  const float* logits;  // of all keys, or null
  const float* bias;    // of all keys, or null
  int64_t bias_stride;
  const float* weights;  // of all keys
  float softcap;         // 0: none
  float sink;            // -infinity: none
};

template <typename T>
__attribute__((target_clones("avx512f", "avx2", "default"))) void Logits(const Row<T>& row,
                                                                         float* x) {
  for (int64_t i = 0; i < row.count; ++i) {
    if (i + kAhead < row.count) {
      const char* const next =
          reinterpret_cast<const char*>(row.k + row.keys[i + kAhead] * row.k_stride);
      for (int64_t line = 0; line < row.dim * int64_t{sizeof(T)}; line += kLine) {
        __builtin_prefetch(next + line);
      }
    }
    x[i] = Product(row.q, row.k + row.keys[i] * row.k_stride, row.dim);
  }
}

template <typename T>
__attribute__((target_clones("avx512f", "avx2", "default"))) void AddValues(const Row<T>& row,
                                                                            const float* p,
                                                                            float* out) {
  for (int64_t i = 0; i < row.count; ++i) {
    if (i + kAhead < row.count) {
      const char* const next =
          reinterpret_cast<const char*>(row.v + row.keys[i + kAhead] * row.v_stride);
      for (int64_t line = 0; line < row.value_dim * int64_t{sizeof(T)}; line += kLine) {
        __builtin_prefetch(next + line);
      }
    }
    const T* const value = row.v + row.keys[i] * row.v_stride;
    for (int64_t c = 0; c < row.value_dim; ++c) out[c] += p[i] * static_cast<float>(value[c]);
  }
}

// exp(x - top), where an infinite top counts its infinite terms: see MaskedAttention's contract.
float Exponential(float x, float top) {
  if (top == kInfinity) return x == kInfinity ? 1 : std::isnan(x) ? x : 0;
  return std::exp(x - (top == -kInfinity ? 0 : top));
}

// Fills out [value dim] and returns the log-sum-exp. `x` has room for the row's keys.
template <typename T>
float Attend(const Row<T>& row, float* x, float* out) {
  if (row.logits != nullptr) {
    for (int64_t i = 0; i < row.count; ++i) x[i] = row.logits[row.keys[i]];
  } else {
    Logits(row, x);
    if (row.softcap > 0) {
      for (int64_t i = 0; i < row.count; ++i) x[i] = row.softcap * std::tanh(x[i] / row.softcap);
    }
    if (row.bias != nullptr) {
      for (int64_t i = 0; i < row.count; ++i) x[i] += row.bias[row.keys[i] * row.bias_stride];
    }
  }
  float top = row.sink;
  bool nan = false;
  for (int64_t i = 0; i < row.count; ++i) {
    nan = nan || std::isnan(x[i]);
    top = std::max(top, x[i]);
  }
  if (nan) top = std::numeric_limits<float>::quiet_NaN();
  double sum = row.sink == -kInfinity ? 0 : Exponential(row.sink, top);
  for (int64_t i = 0; i < row.count; ++i) {
    x[i] = Exponential(x[i], top) / row.weights[row.keys[i]];
    sum += x[i];
  }
  const float total = static_cast<float>(sum);
  // Normalised before the product with V: a row with one key multiplies its value by exactly 1.
  for (int64_t i = 0; i < row.count; ++i) x[i] = total == 0 ? x[i] : x[i] / total;
  AddValues(row, x, out);
  return std::isinf(top) ? top : top + std::log(total);
}

template <typename T>
AttentionState Run(const AttentionInputs& in, const Mask& mask, const SelectedKeys& selected) {
  const int64_t heads = in.query_heads(), queries = in.queries(), n = in.keys();
  const at::Tensor q = in.q.to(at::kFloat).mul(in.effective_scale()).contiguous();
  const at::Tensor k = in.k.stride(3) == 1 ? in.k : in.k.contiguous();
  const at::Tensor v = in.v.stride(3) == 1 ? in.v : in.v.contiguous();
  const at::Tensor weights = mask.is_dense() ? mask.dense_weights() : mask.ToDense();
  const at::Tensor dense_weights = weights.contiguous();
  at::Tensor bias, sinks, logits;
  if (in.bias.has_value()) {
    bias = in.bias->narrow(3, 0, n).to(at::kFloat).expand({in.batch(), heads, queries, n});
  }
  if (in.sink_logits.has_value()) sinks = in.sink_logits->to(at::kFloat).contiguous();
  if (in.memo != nullptr && in.memo->logits.defined()) logits = in.memo->logits.contiguous();
  AttentionState state;
  state.out = at::zeros({in.batch(), heads, queries, in.value_dim()}, q.options());
  state.lse = at::empty({in.batch(), heads, queries}, q.options());
  float* const out = state.out.template data_ptr<float>();
  float* const lse = state.lse.template data_ptr<float>();
  at::parallel_for(0, in.batch() * heads * queries, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> x;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = i % queries, head = i / queries % heads, b = i / queries / heads;
      const int64_t kv_head = head / in.group_size();
      Row<T> row;
      row.q = q.const_data_ptr<float>() + i * in.dim();
      row.k = k.const_data_ptr<T>() + b * k.stride(0) + kv_head * k.stride(1);
      row.v = v.const_data_ptr<T>() + b * v.stride(0) + kv_head * v.stride(1);
      row.k_stride = k.stride(2);
      row.v_stride = v.stride(2);
      row.dim = in.dim();
      row.value_dim = in.value_dim();
      row.keys = selected.keys.data() + selected.begin(i);
      row.count = selected.ends[i] - selected.begin(i);
      row.logits = logits.defined() ? logits.const_data_ptr<float>() + i * n : nullptr;
      row.bias = nullptr;
      row.bias_stride = 0;
      if (bias.defined()) {
        row.bias = bias.const_data_ptr<float>() + b * bias.stride(0) + head * bias.stride(1) +
                   query * bias.stride(2);
        row.bias_stride = bias.stride(3);
      }
      row.weights = dense_weights.const_data_ptr<float>() + i * n;
      row.softcap = in.softcap.has_value() ? static_cast<float>(*in.softcap) : 0;
      row.sink = sinks.defined() ? sinks.const_data_ptr<float>()[head] : -kInfinity;
      x.resize(row.count);
      lse[i] = Attend(row, x.data(), out + i * in.value_dim());
    }
  });
  return state;
}

}  // namespace

bool PrefersRows(const AttentionInputs& in, const Mask& mask) {
  return in.q.device().is_cpu() && in.queries() <= kMostQueries && !mask.is_full() && in.keys() > 0;
}

AttentionState RowAttention(const AttentionInputs& in, const Mask& mask) {
  at::Tensor active = mask.ToActive();
  if (const auto visible = VisibleKeys(in)) active = active.logical_and(*visible);
  const SelectedKeys selected = ListSelectedKeys(active.contiguous());
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, in.k.scalar_type(),
                                         "RowAttention",
                                         [&] { return Run<scalar_t>(in, mask, selected); });
}

}  // namespace sparse_attention
