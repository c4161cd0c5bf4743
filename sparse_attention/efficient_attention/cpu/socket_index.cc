#include "sparse_attention/efficient_attention/cpu/socket_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/lookup_scorer.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/soft_buckets.h"
#include "sparse_attention/key_index/hash_core.h"

namespace sparse_attention::cpu {
namespace {

class SocketIndex final : public CoveringIndex {
 public:
  SocketIndex(const StepPlan& plan, const SocketOptions& options)
      : CoveringIndex(plan),
        tables_(options.tables),
        bits_(options.bits),
        scale_(
            static_cast<float>(1 / (std::sqrt(static_cast<double>(plan.shape.dim)) * options.tau))),
        capacity_(plan.capacity),
        isa_(plan.isa),
        kernels_(LookupKernelsFor(plan.isa)),
        soft_(SoftBucketKernelsFor(plan.isa)),
        products_(RowProductKernelsFor(plan.isa)),
        code_bytes_(CodeBytes(static_cast<int>(options.bits))),
        packed_(static_cast<size_t>(PackedPlaneFloats(tables_, bits_, plan.shape.dim))),
        codes_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * tables_ * plan.capacity *
                                   code_bytes_)),
        norms_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * plan.capacity) *
               sizeof(float)) {
    PackPlanes(options.planes(plan.shape.dim).data(), tables_, bits_, plan.shape.dim,
               /*highest_first=*/true, packed_.data());
    hash_ = {packed_.data(), tables_, bits_, plan.shape.dim, /*zero_is_one=*/true};
  }

  bool allocated() const { return codes_.data() != nullptr && norms_.data() != nullptr; }
  int64_t bytes() const override { return static_cast<int64_t>(codes_.size() + norms_.size()); }
  int64_t ScoringBytes(int64_t keys) const override {
    return shape_.kv_heads * keys * (tables_ * code_bytes_ + int64_t{sizeof(float)});
  }
  size_t ScratchBytes() const override {
    const int64_t rows = shape_.group();
    return Arena::Bytes<LookupScorer>(1) + Arena::Bytes<float>(rows * shape_.dim) +
           Arena::Bytes<float>(rows * tables_ * bits_) +
           Arena::Bytes<float>(rows * tables_ * HalvesFloats(bits())) +
           (kernels_.TakesFactored(bits()) ? 0 : Arena::Bytes<float>(rows * (tables_ << bits_)));
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    LookupProblem problem;
    problem.rows = item.rows();
    problem.tables = static_cast<int32_t>(tables_);
    problem.bits = static_cast<int32_t>(bits_);
    problem.codes = codes_.data() + CodeOffset(item.sequence, item.kv_head);
    problem.code_stride = capacity_;
    problem.weights = norms_.as<float>() + NormOffset(item.sequence, item.kv_head);
    problem.reduce = ReduceOf(item.plan);
    FillTables(item, problem);
    return new (item.arena.Take<LookupScorer>(1)) LookupScorer(kernels_, problem);
  }

 private:
  int bits() const { return static_cast<int>(bits_); }

  // The probability of every bucket of every table for the rows of the item, in its arena.
  void FillTables(const StepItem& item, LookupProblem& problem) const {
    const int64_t rows = item.rows(), columns = tables_ * bits_;
    float* const halves = item.arena.Take<float>(rows * tables_ * HalvesFloats(bits()));
    {
      ArenaScope scope(item.arena);
      float* const q = item.arena.Take<float>(rows * shape_.dim);
      for (int row = 0; row < rows; ++row) WidenQuery(item, row, q + row * shape_.dim);
      float* const sides = item.arena.Take<float>(rows * columns);
      products_.multiply(q, rows, shape_.dim, TiledWeights(packed_.data(), shape_.dim, columns),
                         nullptr, sides, columns);
      soft_.halves(sides, rows * tables_, bits(), scale_, halves);
    }
    problem.table = halves;
    problem.factored = kernels_.TakesFactored(bits());
    problem.row_stride = tables_ * HalvesFloats(bits());
    if (problem.factored) return;
    if (problem.reduce == RowReduce::kSum || problem.reduce == RowReduce::kMean) {
      // The sum over rows at the cost of one row; a mean orders keys alike.
      float* const sums = item.arena.Take<float>(tables_ << bits_);
      soft_.expand_sum(halves, problem.rows, tables_, bits(), sums);
      problem.table = sums;
      problem.rows = 1;
      problem.reduce = RowReduce::kNone;
      return;
    }
    float* const tables = item.arena.Take<float>(rows * (tables_ << bits_));
    soft_.expand(halves, rows * tables_, bits(), tables);
    problem.table = tables;
    problem.row_stride = tables_ << bits_;
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
      products_.widen(row, shape_.element, shape_.dim, to);
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

  const int64_t tables_, bits_;
  const float scale_;
  const int64_t capacity_;
  const Isa isa_;
  const LookupKernels kernels_;
  const SoftBucketKernels soft_;
  const RowProductKernels products_;
  const int64_t code_bytes_;
  std::vector<float> packed_;
  HashPlanes hash_;
  AlignedBuffer codes_;                      // [sequences, KV heads, tables, capacity]
  AlignedBuffer norms_;                      // [sequences, KV heads, capacity]
  std::vector<std::vector<float>> scratch_;  // by thread
  std::vector<std::vector<int32_t>> wide_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> SocketSelector::NewIndex(const StepPlan& plan) const {
  auto index = std::make_unique<SocketIndex>(plan, options_);
  return IfAllocated(std::move(index), plan, "hash tables");
}

}  // namespace sparse_attention::cpu
