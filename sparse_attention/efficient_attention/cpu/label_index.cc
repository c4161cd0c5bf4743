#include "sparse_attention/efficient_attention/cpu/label_index.h"

#include <algorithm>
#include <new>
#include <utility>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"

namespace sparse_attention::cpu {
namespace {

// The labels of one set of keys.
struct LabelSet {
  const char* labels;
  const float* step;
  const float* low;
};

class LabelScorer final : public ItemScorer {
 public:
  // `sets` has one entry for all rows, or one for each of them.
  LabelScorer(const LabelKernels& kernels, const LabelProblem& problem, const LabelSet* sets,
              bool apart)
      : ItemScorer(ScoreType::kFloat),
        kernels_(kernels),
        problem_(problem),
        sets_(sets),
        apart_(apart) {}

  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    float* const out = static_cast<float*>(scores);
    if (!apart_) return kernels_.score(problem_, begin, end, out, stride);
    LabelProblem one = problem_;
    one.rows = 1;
    one.reduce = RowReduce::kNone;
    ScoreRowsApart(problem_.reduce, problem_.rows, begin, end, out, stride,
                   [&](int row, int64_t first, int64_t last, float* of_row) {
                     one.queries = static_cast<const char*>(problem_.queries) +
                                   row * LabelQueryBytes(problem_.channels, 1);
                     one.labels = sets_[row].labels;
                     one.step = sets_[row].step;
                     one.low = sets_[row].low;
                     kernels_.score(one, first, last, of_row, last - first);
                   });
  }

 private:
  const LabelKernels kernels_;
  const LabelProblem problem_;
  const LabelSet* const sets_;
  const bool apart_;
};

class LabelIndex final : public CoveringIndex {
 public:
  LabelIndex(const StepPlan& plan, int64_t label_bits, std::vector<int32_t> channels)
      : CoveringIndex(plan),
        label_bits_(static_cast<int>(label_bits)),
        channels_(std::move(channels)),
        count_(static_cast<int>(channels_.size()) / plan.shape.query_heads),
        sets_(SharedByGroups() ? plan.shape.kv_heads : plan.shape.query_heads),
        capacity_(plan.capacity),
        set_bytes_(LabelWords(count_, label_bits_) *
                   LabelWordBytes(plan.shape.element, label_bits_) * plan.capacity),
        kernels_(LabelKernelsFor(plan.isa)),
        labels_(static_cast<size_t>(plan.sequences * sets_ * set_bytes_)),
        ranges_(quantized() ? static_cast<size_t>(plan.sequences * sets_ * 2 * plan.capacity) *
                                  sizeof(float)
                            : 0) {}

  bool allocated() const {
    return labels_.data() != nullptr && (!quantized() || ranges_.data() != nullptr);
  }
  int64_t bytes() const override { return static_cast<int64_t>(labels_.size() + ranges_.size()); }
  int64_t ScoringBytes(int64_t keys) const override {
    const int64_t key_bytes =
        LabelWords(count_, label_bits_) * LabelWordBytes(shape_.element, label_bits_) +
        (quantized() ? 2 * int64_t{sizeof(float)} : 0);
    return sets_ * keys * key_bytes;
  }
  size_t ScratchBytes() const override {
    return Arena::Bytes<LabelScorer>(1) + Arena::Bytes<LabelSet>(shape_.group()) +
           Arena::Bytes<char>(LabelQueryBytes(count_, shape_.group()));
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    const bool apart = sets_ != shape_.kv_heads;
    char* const prepared = item.arena.Take<char>(LabelQueryBytes(count_, item.rows()));
    LabelSet* const sets = item.arena.Take<LabelSet>(shape_.group());
    LabelProblem problem;
    problem.element = shape_.element;
    problem.channels = count_;
    problem.label_bits = label_bits_;
    problem.rows = item.rows();
    problem.queries = prepared;
    problem.label_stride = capacity_;
    problem.reduce = ReduceOf(item.plan);
    for (int row = 0; row < (apart ? item.rows() : 1); ++row) {
      sets[row] = SetOf(item.sequence, apart ? item.kv_head * item.rows() + row : item.kv_head);
    }
    problem.labels = sets[0].labels;
    problem.step = sets[0].step;
    problem.low = sets[0].low;
    // Row by row, so that each can be scored alone.
    for (int row = 0; row < (apart ? item.rows() : 1); ++row) {
      LabelProblem part = problem;
      if (apart) part.rows = 1;
      kernels_.prepare(part, static_cast<const char*>(item.problem.q) + row * item.problem.q_stride,
                       item.problem.q_stride,
                       channels_.data() + (item.kv_head * item.rows() + row) * count_, count_,
                       prepared + row * LabelQueryBytes(count_, 1));
    }
    return new (item.arena.Take<LabelScorer>(1)) LabelScorer(kernels_, problem, sets, apart);
  }

 private:
  bool quantized() const { return label_bits_ < 16; }

  bool SharedByGroups() const {
    const int64_t group = shape_.group();
    for (int64_t head = 0; head < shape_.query_heads; ++head) {
      const auto list = channels_.begin() + head * count_;
      const auto first = channels_.begin() + head / group * group * count_;
      if (!std::equal(list, list + count_, first)) return false;
    }
    return true;
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    const int64_t heads_of_set = sets_ / shape_.kv_heads;
    ForEachPiece(
        sets_, covered, kv.length, workers, [&](int64_t set, int64_t begin, int64_t end, int) {
          const int64_t head = set / heads_of_set;
          const LabelSet to = SetOf(sequence, set);
          const int64_t query_head = set * (shape_.query_heads / sets_);
          // The memory is this index's own.
          kernels_.append(kv.Keys(head), shape_.element, channels_.data() + query_head * count_,
                          count_, label_bits_, begin, end, const_cast<char*>(to.labels), capacity_,
                          const_cast<float*>(to.step), const_cast<float*>(to.low));
        });
  }

  LabelSet SetOf(int64_t sequence, int64_t set) const {
    const int64_t at = sequence * sets_ + set;
    const float* const ranges = quantized() ? ranges_.as<float>() + at * 2 * capacity_ : nullptr;
    return {labels_.data() + at * set_bytes_, ranges, quantized() ? ranges + capacity_ : nullptr};
  }

  const int label_bits_;
  const std::vector<int32_t> channels_;  // [query heads, count]
  const int count_;
  const int64_t sets_, capacity_, set_bytes_;
  const LabelKernels kernels_;
  AlignedBuffer labels_;  // [sequences, sets, words, capacity]
  AlignedBuffer ranges_;  // [sequences, sets, step and low, capacity]
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> DoubleSparsitySelector::NewIndex(
    const StepPlan& plan) const {
  SA_ASSIGN_OR_RETURN(std::vector<int32_t> channels, channels_(plan.shape));
  auto index = std::make_unique<LabelIndex>(plan, label_bits_, std::move(channels));
  return IfAllocated(std::move(index), plan, "labels");
}

}  // namespace sparse_attention::cpu
