#include "sparse_attention/efficient_attention/cpu/socket_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/lookup_scorer.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/key_index/hash_core.h"

namespace sparse_attention::cpu {
namespace {

// Of a query and a plane; in an order of its own.
float DotProduct(const float* x, const float* y, int64_t n) {
  float sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) sums[lane] += x[i + lane] * y[i + lane];
  }
  for (; i < n; ++i) sums[i % 8] += x[i] * y[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

class SocketIndex final : public CoveringIndex {
 public:
  SocketIndex(const StepPlan& plan, const SocketOptions& options)
      : CoveringIndex(plan),
        tables_(options.tables),
        bits_(options.bits),
        entries_(int64_t{1} << options.bits),
        scale_(
            static_cast<float>(1 / (std::sqrt(static_cast<double>(plan.shape.dim)) * options.tau))),
        capacity_(plan.capacity),
        isa_(plan.isa),
        kernels_(LookupKernelsFor(plan.isa)),
        widen_(RowProductKernelsFor(plan.isa)),
        code_bytes_(CodeBytes(static_cast<int>(options.bits))),
        packed_(static_cast<size_t>(PackedPlaneFloats(tables_, bits_, plan.shape.dim))),
        codes_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * tables_ * plan.capacity *
                                   code_bytes_)),
        norms_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * plan.capacity) *
               sizeof(float)),
        planes_(options.planes(plan.shape.dim)) {
    PackPlanes(planes_.data(), tables_, bits_, plan.shape.dim, /*highest_first=*/true,
               packed_.data());
    hash_ = {packed_.data(), tables_, bits_, plan.shape.dim, /*zero_is_one=*/true};
  }

  bool allocated() const { return codes_.data() != nullptr && norms_.data() != nullptr; }
  int64_t bytes() const override { return static_cast<int64_t>(codes_.size() + norms_.size()); }
  int64_t ScoringBytes(int64_t keys) const override {
    return shape_.kv_heads * keys * (tables_ * code_bytes_ + int64_t{sizeof(float)});
  }
  size_t ScratchBytes() const override {
    return LookupScratchBytes(tables_, bits_) +
           Arena::Bytes<float>(shape_.group() * tables_ * entries_) +
           Arena::Bytes<float>(shape_.dim) + Arena::Bytes<float>(entries_);
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    float* const tables = item.arena.Take<float>(item.rows() * tables_ * entries_);
    {
      ArenaScope scope(item.arena);
      float* const q = item.arena.Take<float>(shape_.dim);
      for (int row = 0; row < item.rows(); ++row) {
        WidenQuery(item, row, q);
        for (int64_t t = 0; t < tables_; ++t) {
          FillTable(t, q, tables + (row * tables_ + t) * entries_);
        }
      }
    }
    LookupProblem problem;
    problem.rows = item.rows();
    problem.tables = static_cast<int32_t>(tables_);
    problem.bits = static_cast<int32_t>(bits_);
    problem.table = tables;
    problem.row_stride = tables_ * entries_;
    problem.codes = codes_.data() + CodeOffset(item.sequence, item.kv_head);
    problem.code_stride = capacity_;
    problem.weights = norms_.as<float>() + NormOffset(item.sequence, item.kv_head);
    problem.reduce = ReduceOf(item.plan);
    return MakeLookupScorer(kernels_, problem, item.arena);
  }

 private:
  // The probability of every bucket of a table: bit p, highest first, is 1 with probability 1 / (1
  // + exp(-2 a_p)), a_p = tanh(q . plane_p) / (sqrt(dim) tau).
  void FillTable(int64_t t, const float* q, float* table) const {
    table[0] = 1;
    for (int64_t p = 0; p < bits_; ++p) {
      const float* const plane = planes_.data() + (t * bits_ + p) * shape_.dim;
      const float product = DotProduct(q, plane, shape_.dim);
      const float a = std::tanh(product) * scale_;
      const float one = 1 / (1 + std::exp(-2 * a)), zero = 1 / (1 + std::exp(2 * a));
      // From the back, so that nothing is overwritten before it is read.
      for (int64_t e = (int64_t{1} << p) - 1; e >= 0; --e) {
        const float before = table[e];
        table[2 * e] = before * zero;
        table[2 * e + 1] = before * one;
      }
    }
  }

  void ReserveThreads(int threads) override {
    scratch_.resize(static_cast<size_t>(threads));
    for (std::vector<float>& scratch : scratch_) {
      scratch.resize(static_cast<size_t>(HashScratchFloats(hash_) + kRows * shape_.dim));
    }
    wide_.resize(static_cast<size_t>(threads));
    if (bits_ > 8) {
      for (std::vector<int32_t>& wide : wide_) {
        wide.resize(static_cast<size_t>(kRows * tables_));
      }
    }
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    ForEachPiece(shape_.kv_heads, covered, kv.length, workers,
                 [&](int64_t head, int64_t begin, int64_t end, int thread) {
                   kernels_.value_norms(kv.Values(head), shape_.element, shape_.value_dim, begin,
                                        end, norms_.as<float>() + NormOffset(sequence, head));
                   char* const codes = codes_.data() + CodeOffset(sequence, head);
                   for (int64_t first = begin; first < end; first += kRows) {
                     Hash(kv.Keys(head), first, std::min(end, first + kRows), codes,
                          static_cast<size_t>(thread));
                   }
                 });
  }

  void Hash(const RowView& keys, int64_t begin, int64_t end, char* codes, size_t thread) {
    float* const scratch = scratch_[thread].data();
    float* const rows = scratch + HashScratchFloats(hash_);
    for (int64_t key = begin; key < end; ++key) {
      const char* const row = keys.Row(key);
      float* const to = rows + (key - begin) * shape_.dim;
      widen_.widen(row, shape_.element, shape_.dim, to);
    }
    if (bits_ <= 8) {
      return HashRows(hash_, rows, end - begin, isa_, scratch,
                      reinterpret_cast<uint8_t*>(codes) + begin, capacity_, 1);
    }
    int32_t* const wide = wide_[thread].data();
    if (bits_ <= 15) {
      HashRows(hash_, rows, end - begin, isa_, scratch, reinterpret_cast<int16_t*>(wide), 1,
               tables_);
      const int16_t* const narrow = reinterpret_cast<const int16_t*>(wide);
      for (int64_t j = 0; j < end - begin; ++j) {
        for (int64_t t = 0; t < tables_; ++t) {
          std::memcpy(codes + (t * capacity_ + begin + j) * code_bytes_, narrow + j * tables_ + t,
                      sizeof(int16_t));
        }
      }
      return;
    }
    HashRows(hash_, rows, end - begin, isa_, scratch, wide, 1, tables_);
    kernels_.append(wide, tables_, end - begin, static_cast<int32_t>(tables_),
                    static_cast<int32_t>(bits_), codes, capacity_, begin);
  }

  int64_t CodeOffset(int64_t sequence, int64_t head) const {
    return (sequence * shape_.kv_heads + head) * tables_ * capacity_ * code_bytes_;
  }
  int64_t NormOffset(int64_t sequence, int64_t head) const {
    return (sequence * shape_.kv_heads + head) * capacity_;
  }

  static constexpr int64_t kRows = 64;  // hashed at a time

  const int64_t tables_, bits_, entries_;
  const float scale_;
  const int64_t capacity_;
  const Isa isa_;
  const LookupKernels kernels_;
  const RowProductKernels widen_;
  const int64_t code_bytes_;
  std::vector<float> packed_;
  HashPlanes hash_;
  AlignedBuffer codes_;  // [sequences, KV heads, tables, capacity]
  AlignedBuffer norms_;  // [sequences, KV heads, capacity]
  const std::vector<float> planes_;
  std::vector<std::vector<float>> scratch_;  // by thread
  std::vector<std::vector<int32_t>> wide_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> SocketSelector::NewIndex(const StepPlan& plan) const {
  auto index = std::make_unique<SocketIndex>(plan, options_);
  return IfAllocated(std::move(index), plan, "hash tables");
}

}  // namespace sparse_attention::cpu
