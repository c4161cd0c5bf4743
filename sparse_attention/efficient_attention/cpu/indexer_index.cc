#include "sparse_attention/efficient_attention/cpu/indexer_index.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/indexer_product.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {
namespace {

// One line of scores, the same for every set: heads that select together reduce equal scores.
class IndexerScorer final : public ItemScorer {
 public:
  IndexerScorer(const IndexerKernels& kernels, const IndexerProblem& problem, int sets)
      : ItemScorer(ScoreType::kFloat), kernels_(kernels), problem_(problem), sets_(sets) {}

  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    float* const out = static_cast<float*>(scores);
    kernels_.score(problem_, begin, end, out);
    for (int set = 1; set < sets_; ++set) std::copy_n(out, end - begin, out + set * stride);
  }

 private:
  const IndexerKernels kernels_;
  const IndexerProblem problem_;
  const int sets_;
};

class IndexerIndex final : public CoveringIndex {
 public:
  IndexerIndex(const StepPlan& plan, IndexerMatrices matrices)
      : CoveringIndex(plan),
        matrices_(std::move(matrices)),
        query_channels_(int64_t{plan.shape.query_heads} * plan.shape.dim),
        key_channels_(int64_t{plan.shape.kv_heads} * plan.shape.dim),
        capacity_(plan.capacity),
        kernels_(IndexerKernelsFor(plan.isa)),
        products_(RowProductKernelsFor(plan.isa)),
        buffer_(static_cast<size_t>(plan.sequences * plan.capacity * matrices_.width) *
                sizeof(float)) {}

  bool allocated() const { return buffer_.data() != nullptr; }
  int64_t bytes() const override { return static_cast<int64_t>(buffer_.size()); }
  // Every KV head reads them for itself.
  int64_t ScoringBytes(int64_t keys) const override {
    const int64_t weights = query_channels_ * matrices_.heads * (matrices_.width + 1);
    return shape_.kv_heads * (keys * matrices_.width + weights) * int64_t{sizeof(float)};
  }
  size_t ScratchBytes() const override {
    return Arena::Bytes<IndexerScorer>(1) + Arena::Bytes<float>(matrices_.heads * matrices_.width) +
           Arena::Bytes<float>(matrices_.heads) + Arena::Bytes<float>(query_channels_);
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    const int64_t heads = matrices_.heads, width = matrices_.width;
    float* const queries = item.arena.Take<float>(heads * width);
    float* const gates = item.arena.Take<float>(heads);
    {
      ArenaScope scope(item.arena);
      float* const joined = item.arena.Take<float>(query_channels_);
      // Of all query heads, not of the item's group alone.
      const StepInputs& in = item.inputs;
      const char* const q =
          in.q + item.sequence * in.q_sequence_stride + item.query * in.q_query_stride;
      for (int64_t head = 0; head < shape_.query_heads; ++head) {
        products_.widen(q + head * in.q_head_stride, shape_.element, shape_.dim,
                        joined + head * shape_.dim);
      }
      for (int64_t h = 0; h < heads; ++h) {
        products_.multiply(
            joined, 1, query_channels_,
            PlainWeights(matrices_.query + h * query_channels_ * width, query_channels_, width),
            nullptr, queries + h * width, width);
      }
      products_.multiply(joined, 1, query_channels_,
                         PlainWeights(matrices_.gate, query_channels_, heads), nullptr, gates,
                         heads);
    }
    const IndexerProblem problem = {.width = static_cast<int32_t>(width),
                                    .heads = static_cast<int32_t>(heads),
                                    .queries = queries,
                                    .gates = gates,
                                    .keys = buffer_.as<float>() + item.sequence * capacity_ * width,
                                    .key_stride = width};
    return new (item.arena.Take<IndexerScorer>(1))
        IndexerScorer(kernels_, problem, item.held.sets());
  }

 private:
  void ReserveThreads(int threads) override {
    joined_.resize(static_cast<size_t>(threads));
    for (std::vector<float>& joined : joined_) {
      joined.resize(static_cast<size_t>(kRows * key_channels_));
    }
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    ForEachPiece(1, covered, kv.length, workers,
                 [&](int64_t, int64_t begin, int64_t end, int thread) {
                   float* const joined = joined_[static_cast<size_t>(thread)].data();
                   for (int64_t first = begin; first < end; first += kRows) {
                     Encode(sequence, kv, first, std::min(end, first + kRows), joined);
                   }
                 });
  }

  // Bit for bit the vectors of the research engine.
  void Encode(int64_t sequence, const SequenceKv& kv, int64_t begin, int64_t end, float* joined) {
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      const RowView keys = kv.Keys(head);
      for (int64_t key = begin; key < end; ++key) {
        products_.widen(keys.Row(key), shape_.element, shape_.dim,
                        joined + (key - begin) * key_channels_ + head * shape_.dim);
      }
    }
    const int64_t width = matrices_.width;
    products_.multiply(joined, end - begin, key_channels_,
                       PlainWeights(matrices_.key, key_channels_, width), nullptr,
                       buffer_.as<float>() + (sequence * capacity_ + begin) * width, width);
  }

  static constexpr int64_t kRows = 32;  // projected at a time

  const IndexerMatrices matrices_;
  const int64_t query_channels_, key_channels_, capacity_;
  const IndexerKernels kernels_;
  const RowProductKernels products_;
  AlignedBuffer buffer_;                    // [sequences, capacity, width]
  std::vector<std::vector<float>> joined_;  // by thread: keys of all KV heads
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> LightningIndexerSelector::NewIndex(
    const StepPlan& plan) const {
  SA_ASSIGN_OR_RETURN(IndexerMatrices matrices, matrices_(plan.shape));
  auto index = std::make_unique<IndexerIndex>(plan, std::move(matrices));
  return IfAllocated(std::move(index), plan, "vectors");
}

}  // namespace sparse_attention::cpu
