#include "sparse_attention/efficient_attention/cpu/quest_index.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kLeastPages = 3;

class PageScorer final : public ItemScorer {
 public:
  PageScorer(const PageBoundsKernels& kernels, const PageBoundsProblem& problem)
      : ItemScorer(ScoreType::kFloat), kernels_(kernels), problem_(problem) {}
  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    kernels_.score(problem_, begin, end, static_cast<float*>(scores), stride);
  }

 private:
  const PageBoundsKernels kernels_;
  const PageBoundsProblem problem_;
};

class PageIndex final : public CoveringIndex {
 public:
  PageIndex(const StepPlan& plan, int64_t page_size, int64_t label_bits)
      : CoveringIndex(plan),
        page_size_(page_size),
        label_bits_(label_bits),
        element_(BoundsElement(plan.shape.element, static_cast<int>(label_bits))),
        page_bytes_(2 * plan.shape.dim * ElementBytes(element_)),
        pages_((plan.capacity + page_size - 1) / page_size),
        kernels_(PageBoundsKernelsFor(plan.isa)),
        buffer_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * pages_ * page_bytes_)) {}

  bool allocated() const { return buffer_.data() != nullptr; }
  int64_t bytes() const override { return static_cast<int64_t>(buffer_.size()); }
  int64_t ScoringBytes(int64_t keys) const override {
    return shape_.kv_heads * ((keys + page_size_ - 1) / page_size_) * page_bytes_;
  }
  size_t ScratchBytes() const override {
    return Arena::Bytes<PageScorer>(1) +
           Arena::Bytes<char>(SplitQueryBytes(shape_.dim, shape_.group()));
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    char* const split = item.arena.Take<char>(SplitQueryBytes(shape_.dim, item.rows()));
    PageBoundsProblem problem;
    problem.query_element = shape_.element;
    problem.bounds_element = element_;
    problem.dim = shape_.dim;
    problem.rows = item.rows();
    problem.queries = split;
    problem.bounds = buffer_.data() + Offset(item.sequence, item.kv_head);
    problem.page_stride = page_bytes_;
    problem.reduce = ReduceOf(item.plan);
    kernels_.split_queries(problem, item.problem.q, item.problem.q_stride, split);
    return new (item.arena.Take<PageScorer>(1)) PageScorer(kernels_, problem);
  }

 private:
  int64_t Offset(int64_t sequence, int64_t head) const {
    return (sequence * shape_.kv_heads + head) * pages_ * page_bytes_;
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    // The last page may have been a part.
    const int64_t first = covered / page_size_, last = (kv.length + page_size_ - 1) / page_size_;
    ForEachPiece(shape_.kv_heads, first, last, workers,
                 [&](int64_t head, int64_t begin, int64_t end, int) {
                   kernels_.update(kv.Keys(head), shape_.element, shape_.dim, page_size_,
                                   static_cast<int32_t>(label_bits_), begin * page_size_,
                                   std::min(kv.length, end * page_size_),
                                   buffer_.data() + Offset(sequence, head), page_bytes_);
                 });
  }

  const int64_t page_size_, label_bits_;
  const Element element_;  // of the bounds
  const int64_t page_bytes_, pages_;
  const PageBoundsKernels kernels_;
  AlignedBuffer buffer_;  // [sequences, KV heads, pages, 2, dim]
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> QuestSelector::NewIndex(const StepPlan& plan) const {
  auto index = std::make_unique<PageIndex>(plan, page_size_, label_bits_);
  return IfAllocated(std::move(index), plan, "bounds of pages");
}

size_t QuestSelector::ScratchBytes(const StepPlan& plan) const {
  const int64_t pages = (plan.capacity + page_size_ - 1) / page_size_;
  return SelectTopEntriesScratchBytes(plan, pages) +
         static_cast<size_t>(plan.sets()) * Arena::Bytes<uint64_t>(BitmapWords(pages));
}

void QuestSelector::Select(StepItem& item, const KeyIndex* index) const {
  const int64_t heavy = heavy_size_.Resolve(item.keys);
  if (item.keys <= std::max<int64_t>(1, heavy)) return item.held.HoldAll();
  HeldKeys& held = item.held;
  const int64_t first = held.first() / page_size_;
  const int64_t last = (held.end() + page_size_ - 1) / page_size_;
  const int64_t all = (item.keys + page_size_ - 1) / page_size_;
  const int64_t kept = std::min(all, std::max(kLeastPages, heavy / page_size_));
  for (int set = 0; set < held.sets(); ++set) held.MutableBits(set, item.arena);
  ArenaScope scope(item.arena);
  const uint64_t* excluded[kMostGroup] = {};
  uint64_t* pages[kMostGroup];
  for (int set = 0; set < held.sets(); ++set) {
    pages[set] = item.arena.Take<uint64_t>(BitmapWords(last));
    std::memset(pages[set], 0, sizeof(uint64_t) * static_cast<size_t>(BitmapWords(last)));
  }
  const ItemScorer* const scorer = static_cast<const ScoredIndex*>(index)->MakeScorer(item);
  SelectTopEntries(item, *scorer, first, last, kept, excluded, pages);
  for (int set = 0; set < held.sets(); ++set) {
    uint64_t* const keys = held.MutableBits(set, item.arena);
    for (int64_t word = 0; word < BitmapWords(last); ++word) {
      for (uint64_t left = pages[set][word]; left != 0; left &= left - 1) {
        const int64_t page = word * 64 + __builtin_ctzll(left);
        SetBits(keys, page * page_size_, std::min(held.end(), (page + 1) * page_size_));
      }
    }
  }
}

}  // namespace sparse_attention::cpu
