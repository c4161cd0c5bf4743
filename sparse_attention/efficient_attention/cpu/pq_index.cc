#include "sparse_attention/efficient_attention/cpu/pq_index.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "sparse_attention/base/philox.h"
#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/lookup_scorer.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/key_index/pq_core.h"

namespace sparse_attention::cpu {
namespace {

class PqIndex final : public CoveringIndex {
 public:
  PqIndex(const StepPlan& plan, const PqIndexOptions& options)
      : CoveringIndex(plan),
        options_(options),
        subvectors_(std::min<int64_t>(options.subvectors, plan.shape.dim)),
        clusters_(int64_t{1} << options.bits),
        width_((plan.shape.dim + subvectors_ - 1) / subvectors_),
        centroid_dim_(width_ + (options.inner_product ? 1 : 0)),
        capacity_(plan.capacity),
        isa_(plan.isa),
        kernels_(LookupKernelsFor(plan.isa)),
        code_bytes_(CodeBytes(static_cast<int>(options.bits))),
        codes_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * subvectors_ *
                                   plan.capacity * code_bytes_)),
        codebooks_(static_cast<size_t>(plan.sequences)) {
    for (Codebook& codebook : codebooks_) {
      const int64_t groups = shape_.kv_heads * subvectors_;
      codebook.centroids.resize(static_cast<size_t>(groups * clusters_ * centroid_dim_));
      codebook.packed.resize(
          static_cast<size_t>(groups * PackedCentroidFloats(clusters_, centroid_dim_)));
      codebook.phi.resize(static_cast<size_t>(groups));
    }
  }

  bool allocated() const { return codes_.data() != nullptr; }
  int64_t bytes() const override {
    int64_t bytes = static_cast<int64_t>(codes_.size());
    for (const Codebook& codebook : codebooks_) {
      bytes += static_cast<int64_t>((codebook.centroids.size() + codebook.packed.size()) *
                                    sizeof(float));
    }
    return bytes;
  }
  int64_t ScoringBytes(int64_t keys) const override {
    return shape_.kv_heads *
           (std::max<int64_t>(0, keys - options_.offset) * subvectors_ * code_bytes_ +
            clusters_ * shape_.dim * int64_t{sizeof(float)});
  }
  size_t ScratchBytes() const override {
    return LookupScratchBytes(subvectors_, options_.bits) +
           Arena::Bytes<float>(shape_.group() * subvectors_ * clusters_) +
           Arena::Bytes<float>(shape_.group() * shape_.dim);
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    const Codebook& codebook = codebooks_[static_cast<size_t>(item.sequence)];
    float* const tables = item.arena.Take<float>(item.rows() * subvectors_ * clusters_);
    {
      ArenaScope scope(item.arena);
      float* const q = item.arena.Take<float>(item.rows() * shape_.dim);
      for (int row = 0; row < item.rows(); ++row) WidenQuery(item, row, q + row * shape_.dim);
      FillTables(codebook, item, q, tables);
    }
    LookupProblem problem;
    problem.rows = item.rows();
    problem.tables = static_cast<int32_t>(subvectors_);
    problem.bits = static_cast<int32_t>(options_.bits);
    problem.table = tables;
    problem.row_stride = subvectors_ * clusters_;
    problem.codes = CodesOf(item.sequence, item.kv_head);
    problem.code_stride = capacity_;
    problem.weights = nullptr;
    problem.reduce = ReduceOf(item.plan);
    return MakeLookupScorer(kernels_, problem, item.arena);
  }

 private:
  struct Codebook {
    int64_t trained_on = 0;        // keys behind the offset; 0: not yet
    std::vector<float> centroids;  // [KV heads, subvectors, clusters, centroid dim]
    std::vector<float> packed;     // the same, for the search
    std::vector<float> phi;        // [KV heads, subvectors]
  };

  // Products of the queries' sub-vectors with the centroids, to [rows, subvectors, clusters].
  void FillTables(const Codebook& codebook, const StepItem& item, const float* q,
                  float* tables) const {
    const PqEncoder encoder = EncoderOf(codebook);
    for (int64_t s = 0; s < subvectors_; ++s) {
      AttentionProblem problem;
      problem.element = Element::kFloat32;
      problem.dim =
          static_cast<int32_t>(shape_.dim / subvectors_ + (s < shape_.dim % subvectors_ ? 1 : 0));
      problem.rows = item.rows();
      problem.q = q + encoder.FirstChannel(s);
      problem.q_stride = shape_.dim * int64_t{sizeof(float)};
      problem.k.base = reinterpret_cast<const char*>(
          codebook.centroids.data() + (item.kv_head * subvectors_ + s) * clusters_ * centroid_dim_);
      problem.k.row_stride = centroid_dim_ * int64_t{sizeof(float)};
      item.plan.attention.logits_range(problem, 0, clusters_, tables + s * clusters_,
                                       subvectors_ * clusters_);
    }
  }

  PqEncoder EncoderOf(const Codebook& codebook) const {
    PqEncoder encoder;
    encoder.heads = shape_.kv_heads;
    encoder.key_dim = shape_.dim;
    encoder.subvectors = subvectors_;
    encoder.clusters = clusters_;
    encoder.packed = codebook.packed.data();
    if (options_.inner_product) encoder.phi = codebook.phi.data();
    return encoder;
  }

  void ReserveThreads(int threads) override {
    const size_t bytes = static_cast<size_t>(PqScratchBytes(EncoderOf(codebooks_[0])));
    while (static_cast<int>(scratch_.size()) < threads) {
      scratch_.emplace_back(bytes);
      piece_codes_.emplace_back(static_cast<size_t>(subvectors_ * kPieceCodes));
    }
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    Codebook& codebook = codebooks_[static_cast<size_t>(sequence)];
    const int64_t keys = kv.length - options_.offset;
    // With no more keys than centroids there is nothing to learn.
    if (codebook.trained_on == 0 && keys <= clusters_) return;
    if (codebook.trained_on == 0 || keys > 2 * codebook.trained_on) {
      return Train(sequence, kv, workers);
    }
    ForEachPiece(shape_.kv_heads, std::max(covered, options_.offset), kv.length, workers,
                 [&](int64_t head, int64_t begin, int64_t end, int thread) {
                   Encode(sequence, head, KeysOf(kv, head), begin, end,
                          static_cast<size_t>(thread));
                 });
  }

  int64_t Cut(int64_t sequence, int64_t length) override {
    Codebook& codebook = codebooks_[static_cast<size_t>(sequence)];
    // A codebook rests on all keys that it was trained on.
    if (length - options_.offset >= codebook.trained_on) return length;
    codebook.trained_on = 0;
    return std::min(length, options_.offset);
  }

  void Encode(int64_t sequence, int64_t head, const HeadKeys& keys, int64_t begin, int64_t end,
              size_t thread) {
    const PqEncoder encoder = EncoderOf(codebooks_[static_cast<size_t>(sequence)]);
    ForEachRun(keys, begin, end, [&](const KeyRows& rows, int64_t first) {
      if (code_bytes_ == 1) {
        auto* const codes = static_cast<uint8_t*>(CodesOf(sequence, head));
        return EncodePq(encoder, head, rows, isa_, scratch_[thread].data(), codes + first,
                        capacity_);
      }
      int32_t* const wide = piece_codes_[thread].data();
      for (int64_t row = 0; row < rows.rows; row += kPieceCodes) {
        const int64_t count = std::min(kPieceCodes, rows.rows - row);
        EncodePq(encoder, head, rows.Part(row, count), isa_, scratch_[thread].data(), wide,
                 kPieceCodes);
        for (int64_t s = 0; s < subvectors_; ++s) {
          SetCodes(sequence, head, s, first + row, count, wide + s * kPieceCodes);
        }
      }
    });
  }

  void SetCodes(int64_t sequence, int64_t head, int64_t subvector, int64_t first, int64_t count,
                const int32_t* codes) {
    char* const out =
        static_cast<char*>(CodesOf(sequence, head)) + (subvector * capacity_ + first) * code_bytes_;
    for (int64_t j = 0; j < count; ++j) {
      const uint32_t code = static_cast<uint32_t>(codes[j]);  // little-endian: the low bytes
      std::memcpy(out + j * code_bytes_, &code, static_cast<size_t>(code_bytes_));
    }
  }

  void Train(int64_t sequence, const SequenceKv& kv, Workers& workers) {
    Codebook& codebook = codebooks_[static_cast<size_t>(sequence)];
    const int64_t keys = kv.length - options_.offset;
    workers.Run(shape_.kv_heads * subvectors_, [&](int64_t group, int) {
      const int64_t head = group / subvectors_, subvector = group % subvectors_;
      PhiloxStream stream(options_.seed, RandomPurpose::kPqCodebook,
                          static_cast<uint32_t>(shape_.layer), static_cast<uint32_t>(head),
                          static_cast<uint32_t>(subvector));
      std::vector<char> copy;
      std::vector<int32_t> codes(static_cast<size_t>(keys));
      PqTraining training;
      training.keys = TogetherIn(copy, KeysOf(kv, head), options_.offset, kv.length);
      training.key_dim = shape_.dim;
      training.subvectors = subvectors_;
      training.subvector = subvector;
      training.clusters = clusters_;
      training.iterations = options_.iterations;
      training.inner_product = options_.inner_product;
      training.uniform = [](void* draws) { return static_cast<PhiloxStream*>(draws)->Uniform(); };
      training.stream = &stream;
      training.centroids = codebook.centroids.data() + group * clusters_ * centroid_dim_;
      training.phi = codebook.phi.data() + group;
      training.codes = codes.data();
      AlignedBuffer scratch(static_cast<size_t>(PqTrainingScratchBytes(training)));
      TrainPq(training, isa_, scratch.data());
      const int64_t floats = PackedCentroidFloats(clusters_, centroid_dim_);
      PackCentroids(training.centroids, clusters_, centroid_dim_,
                    codebook.packed.data() + group * floats);
      SetCodes(sequence, head, subvector, options_.offset, keys, codes.data());
    });
    codebook.trained_on = keys;
  }

  // Keys [begin, end) at even distances: where they lie, or copied out of their pages.
  KeyRows TogetherIn(std::vector<char>& copy, const HeadKeys& keys, int64_t begin,
                     int64_t end) const {
    if (!keys.rows.paged()) {
      return {keys.rows.Row(begin), keys.element, keys.rows.row_stride, end - begin};
    }
    const int64_t bytes = shape_.dim * ElementBytes(keys.element);
    copy.resize(static_cast<size_t>((end - begin) * bytes));
    for (int64_t key = begin; key < end; ++key) {
      std::memcpy(copy.data() + (key - begin) * bytes, keys.rows.Row(key),
                  static_cast<size_t>(bytes));
    }
    return {copy.data(), keys.element, bytes, end - begin};
  }

  void* CodesOf(int64_t sequence, int64_t head) {
    return codes_.data() +
           (sequence * shape_.kv_heads + head) * subvectors_ * capacity_ * code_bytes_;
  }
  const void* CodesOf(int64_t sequence, int64_t head) const {
    return codes_.data() +
           (sequence * shape_.kv_heads + head) * subvectors_ * capacity_ * code_bytes_;
  }

  static constexpr int64_t kPieceCodes = 1024;

  const PqIndexOptions options_;
  const int64_t subvectors_, clusters_, width_, centroid_dim_, capacity_;
  const Isa isa_;
  const LookupKernels kernels_;
  const int64_t code_bytes_;
  AlignedBuffer codes_;                 // [sequences, KV heads, subvectors, capacity]
  std::vector<Codebook> codebooks_;     // by sequence
  std::vector<AlignedBuffer> scratch_;  // by thread
  std::vector<std::vector<int32_t>> piece_codes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> PqCacheSelector::NewIndex(const StepPlan& plan) const {
  auto index = std::make_unique<PqIndex>(plan, options_);
  return IfAllocated(std::move(index), plan, "codes");
}

}  // namespace sparse_attention::cpu
