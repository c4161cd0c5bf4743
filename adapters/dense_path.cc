#include "adapters/dense_path.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

// What a piece of queries may need for its mask or its logits.
constexpr int64_t kPieceBytes = 64 << 20;

// The keys that some query of a range may see.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t length() const { return end - begin; }
};

KeyRange KeysOf(const AttentionInputs& in, int64_t first_query, int64_t queries) {
  KeyRange keys{0, in.keys()};
  const int64_t first = in.query_position(first_query);
  if (in.sliding_window.has_value()) {
    keys.begin = std::max<int64_t>(0, first - *in.sliding_window + 1);
  }
  if (in.causal) keys.end = std::min(keys.end, first + queries);
  return keys;
}

// The fused kernels know a positive scale (a negative one gives NaN on the CPU), causality, and a
// mask; a row without any key is not theirs to define.
bool IsFusable(const AttentionInputs& in) {
  if (in.bias.has_value() || in.softcap.has_value() || in.sink_logits.has_value()) return false;
  if (in.dim() != in.value_dim() || in.q.numel() == 0 || in.keys() == 0) return false;
  if (in.effective_scale() <= 0) return false;
  if (!in.causal && !in.sliding_window.has_value()) return true;
  return in.query_position(in.queries() - 1) < in.keys();
}

// Query heads that share a KV head become rows of it, so that K and V are not repeated.
// mask: additive, [queries, keys], or absent.
at::Tensor FoldedAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::optional<at::Tensor>& mask, double scale) {
  const int64_t group = q.size(1) / k.size(1);
  const at::Tensor rows = q.reshape({q.size(0), k.size(1), group * q.size(2), q.size(3)});
  std::optional<at::Tensor> row_mask;
  if (mask.has_value()) row_mask = mask->repeat({group, 1});
  return at::scaled_dot_product_attention(rows, k, v, row_mask, /*dropout_p=*/0.0,
                                          /*is_causal=*/false, scale)
      .reshape({q.size(0), q.size(1), q.size(2), v.size(3)});
}

at::Tensor AdditiveMask(const AttentionInputs& in, int64_t first_query, int64_t queries,
                        const KeyRange& range) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(in.q.device());
  const int64_t first = in.query_position(first_query);
  const at::Tensor positions = at::arange(first, first + queries, options).unsqueeze(1);
  const at::Tensor keys = at::arange(range.begin, range.end, options);
  at::Tensor mask = at::zeros({queries, range.length()}, in.q.options());
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  if (in.causal) mask.masked_fill_(keys.gt(positions), kHidden);
  if (in.sliding_window.has_value()) {
    mask.masked_fill_(keys.le(positions.sub(*in.sliding_window)), kHidden);
  }
  return mask;
}

// Pieces of queries, each with the keys that it may see and a mask.
at::Tensor MaskedPieces(const AttentionInputs& in) {
  const int64_t row_bytes = in.group_size() * in.keys() * in.q.element_size();
  const int64_t rows = std::max<int64_t>(16, kPieceBytes / row_bytes);
  std::vector<at::Tensor> pieces;
  for (int64_t begin = 0; begin < in.queries(); begin += rows) {
    const int64_t queries = std::min(rows, in.queries() - begin);
    const KeyRange range = KeysOf(in, begin, queries);
    pieces.push_back(
        FoldedAttention(in.q.narrow(2, begin, queries), in.k.narrow(2, range.begin, range.length()),
                        in.v.narrow(2, range.begin, range.length()),
                        AdditiveMask(in, begin, queries, range), in.effective_scale()));
  }
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces, 2);
}

// Causal attention on the CPU: the keys before the first query, all of them visible, and the square
// block of the queries' own keys are attended each without a mask, which is a third faster than
// with one, and merged.
at::Tensor CausalOnCpu(const AttentionInputs& in) {
  const double scale = in.effective_scale();
  const int64_t first = in.query_position(0);
  const auto block = [&](int64_t begin, int64_t length, bool causal) {
    return at::_scaled_dot_product_flash_attention_for_cpu(in.q, in.k.narrow(2, begin, length),
                                                           in.v.narrow(2, begin, length),
                                                           /*dropout_p=*/0.0, causal, {}, scale);
  };
  const auto [own, own_lse] = block(first, in.queries(), true);
  if (first == 0) return own;
  const auto [past, past_lse] = block(0, first, false);
  const at::Tensor share = past_lse.sub(own_lse).sigmoid_().unsqueeze(-1).to(at::kFloat);
  return at::lerp(own.to(at::kFloat), past.to(at::kFloat), share).to(in.q.scalar_type());
}

at::Tensor Fused(const AttentionInputs& in) {
  const bool windowed = in.sliding_window.has_value();
  if (in.queries() == 1 || (!in.causal && !windowed)) {
    const KeyRange range = KeysOf(in, 0, in.queries());
    return FoldedAttention(in.q, in.k.narrow(2, range.begin, range.length()),
                           in.v.narrow(2, range.begin, range.length()), {}, in.effective_scale());
  }
  if (windowed) return MaskedPieces(in);
  if (in.q.is_cpu()) return CausalOnCpu(in);
  // Only the half types have a fused kernel on CUDA that takes grouped heads.
  if (in.query_position(0) == 0 && in.q.scalar_type() != at::kFloat) {
    return at::scaled_dot_product_attention(
        in.q, in.k.narrow(2, 0, in.queries()), in.v.narrow(2, 0, in.queries()), {},
        /*dropout_p=*/0.0, /*is_causal=*/true, in.effective_scale(), /*enable_gqa=*/true);
  }
  return MaskedPieces(in);
}

absl::StatusOr<at::Tensor> DefinitionInPieces(const AttentionInputs& in) {
  const int64_t row_bytes = std::max<int64_t>(
      1, in.batch() * in.query_heads() * in.keys() * static_cast<int64_t>(sizeof(float)));
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / row_bytes);
  std::vector<at::Tensor> pieces;
  for (int64_t begin = 0; begin == 0 || begin < in.queries(); begin += rows) {
    const int64_t queries = std::min(rows, in.queries() - begin);
    AttentionInputs piece = in;
    piece.memo = nullptr;
    piece.q = in.q.narrow(2, begin, queries);
    if (in.bias.has_value()) piece.bias = in.bias->narrow(2, begin, queries);
    // Left absent where it was: it may be unknowable, and then nothing depends on it.
    if (in.causal || in.sliding_window.has_value() || in.first_query_position.has_value()) {
      piece.first_query_position = in.query_position(begin);
    }
    SA_ASSIGN_OR_RETURN(const AttentionState state, DenseAttention(piece));
    pieces.push_back(state.out.to(in.q.scalar_type()));
  }
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces, 2);
}

}  // namespace

absl::StatusOr<at::Tensor> FastDenseAttention(const AttentionInputs& in) {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    if (IsFusable(in)) return Fused(in);
    return DefinitionInPieces(in);
  });
}

}  // namespace sparse_attention
