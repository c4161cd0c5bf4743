#include "sparse_attention/research_attention/maskers/fixed/socket_top_k.h"

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "sparse_attention/key_index/lookups.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/index_state.h"

namespace sparse_attention {
namespace {

constexpr int64_t kTableFloats = 16 << 20;  // of soft buckets that are held at a time

constexpr HashRule kSocketRule = {.order = BitOrder::kHighestFirst, .zero_is_one = true};

class SocketIndex {
 public:
  SocketIndex(const AttentionInputs& in, const at::Tensor& planes) : tables_(planes, kSocketRule) {
    Extend(in, 0);
  }
  void Extend(const AttentionInputs& in, int64_t unchanged) {
    const int64_t fresh = in.keys() - unchanged;
    tables_.Set(unchanged, in.k.narrow(2, unchanged, fresh));
    const at::Tensor norms = at::linalg_vector_norm(in.v.narrow(2, unchanged, fresh), 2, {-1},
                                                    /*keepdim=*/false, at::kFloat);
    norms_.Set(unchanged, at::where(norms.isfinite(), norms, 0.));
  }
  int64_t prefix() const { return 0; }

  const LshTables& tables() const { return tables_; }
  at::Tensor norms() const { return norms_.view(); }  // [batch, KV heads, n]

 private:
  LshTables tables_;
  GrowingTensor norms_{2};
};

using State = IndexState<SocketIndex>;

const SocketIndex& UpdateIndex(const AttentionInputs& in, const SocketTopKConfig& config,
                               State& state) {
  return state.Update(
      in,
      [&] {
        return SocketIndex(in,
                           TensorOf(SocketPlanes(config.L, config.K, in.dim())).to(in.q.device()));
      },
      [&](SocketIndex& index, int64_t unchanged) { index.Extend(in, unchanged); },
      /*with_values=*/true);
}

// Sums over tables of soft memberships, a [batch, KV heads, rows, tables, bits] and buckets [batch,
// KV heads, tables, n] to [batch, KV heads, rows, n].
at::Tensor SoftCollisions(const at::Tensor& a, const at::Tensor& buckets) {
  const int64_t rows = a.size(2), tables = a.size(3), entries = int64_t{1} << a.size(4);
  at::Tensor sums = at::zeros({a.size(0), a.size(1), rows, buckets.size(3)}, a.options());
  const int64_t sets = std::max<int64_t>(1, a.size(0) * a.size(1));
  const int64_t row_piece =
      std::clamp<int64_t>(kTableFloats / (sets * entries), 1, std::max<int64_t>(1, rows));
  const int64_t table_piece = std::max<int64_t>(1, kTableFloats / (sets * entries * row_piece));
  for (int64_t row = 0; row < rows; row += row_piece) {
    const int64_t row_count = std::min(row_piece, rows - row);
    at::Tensor row_sums = row_count == rows ? sums : sums.narrow(2, row, row_count).contiguous();
    for (int64_t table = 0; table < tables; table += table_piece) {
      const int64_t count = std::min(table_piece, tables - table);
      const at::Tensor soft =
          SoftBuckets(a.narrow(2, row, row_count).narrow(3, table, count).contiguous());
      AddLookups(soft, buckets.narrow(2, table, count), row_sums);
    }
    if (row_count != rows) sums.narrow(2, row, row_count).copy_(row_sums);
  }
  return sums;
}

}  // namespace

SocketTopK::SocketTopK(const SocketTopKConfig& config, const MaskerOptions& options)
    : TopKMasker(SocketTopKDescriptor(), options, config.heavy_size), config_(config) {}

std::unique_ptr<MaskerState> SocketTopK::NewState() const { return std::make_unique<State>(); }

absl::Status SocketTopK::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  UpdateIndex(in, config_, static_cast<State&>(*state));
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> SocketTopK::Scores(const AttentionInputs& in, MaskerState* state) const {
  return WithState<State>(state, [&](State& own) {
    const SocketIndex& index = UpdateIndex(in, config_, own);
    const at::Tensor rows = GroupRows(in.q.to(at::kFloat), in.kv_heads());
    const at::Tensor planes = index.tables().planes();
    const double scale = 1 / (std::sqrt(static_cast<double>(in.dim())) * config_.tau);
    const at::Tensor a = at::matmul(rows, planes.flatten(0, 1).t()).tanh_().mul_(scale);
    at::Tensor scores =
        SoftCollisions(a.unflatten(-1, {config_.L, config_.K}), index.tables().buckets());
    scores.mul_(index.norms().unsqueeze(2));
    return UngroupRows(scores, in.query_heads());
  });
}

int64_t SocketTopK::IndexBytes(const AttentionInputs& in) const {
  const int64_t bucket_bytes = config_.K <= 8 ? 1 : config_.K <= 15 ? 2 : 4;
  return in.batch() * in.kv_heads() * in.keys() *
         (config_.L * bucket_bytes + int64_t{sizeof(float)});
}

const MaskerDescriptor& SocketTopKDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<SocketTopK>({
      .summary =
          "The keys with the most soft hash collisions, weighed by the norm of their values.",
      .source = "SOCKET: soft collision kernel estimator for sparse attention, 2026",
      .when_to_use = "Without training, where many tables are affordable: the best recall of the "
                     "methods without weights, at the largest index.",
      .memory = "L · (1, 2 or 4) bytes (K up to 8, 15, 20), and a float",
      .reads = "the buckets and the value norm of every key",
      .scoring_reads = ScoringReads::kIndex,
  });
  return descriptor;
}

}  // namespace sparse_attention
