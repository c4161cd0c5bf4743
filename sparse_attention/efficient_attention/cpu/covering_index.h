// CoveringIndex: what indexes share: how many keys of each sequence they cover, and appending by
// several threads.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COVERING_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COVERING_INDEX_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"
#include "sparse_attention/key_index/key_rows.h"

namespace sparse_attention::cpu {

// The keys of one (sequence, KV head).
struct HeadKeys {
  RowView rows;
  Element element;
};

// Calls use(rows, first) for runs of keys [begin, end) that lie evenly apart: all of them, or those
// of a page.
template <typename Use>
void ForEachRun(const HeadKeys& keys, int64_t begin, int64_t end, const Use& use) {
  while (begin < end) {
    int64_t last = end;
    if (keys.rows.paged()) {
      last = std::min(end, ((begin >> keys.rows.page_shift) + 1) << keys.rows.page_shift);
    }
    use(KeyRows{keys.rows.Row(begin), keys.element, keys.rows.row_stride, last - begin}, begin);
    begin = last;
  }
}

// Of a kind of KeyIndex.
template <typename Kind>
class CoveringIndexOf : public Kind {
 public:
  explicit CoveringIndexOf(const StepPlan& plan)
      : shape_(plan.shape), covered_(static_cast<size_t>(plan.sequences), 0) {}

  void Append(int64_t sequence, const SequenceKv& kv, Workers& workers) final {
    int64_t& covered = covered_[static_cast<size_t>(sequence)];
    if (kv.length <= covered) return;
    ReserveThreads(workers.threads());
    Extend(sequence, kv, covered, workers);
    covered = kv.length;
  }
  void Truncate(int64_t sequence, int64_t length) final {
    int64_t& covered = covered_[static_cast<size_t>(sequence)];
    if (length >= covered) return;
    covered = Cut(sequence, length);
  }

 protected:
  // Keys [covered, kv.length) of a sequence are new.
  virtual void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered,
                      Workers& workers) = 0;
  // The keys from `length` on are forgotten; returns how many are still covered, `length` or fewer.
  virtual int64_t Cut(int64_t, int64_t length) { return length; }
  // Scratch memory for so many threads.
  virtual void ReserveThreads(int) {}

  // Calls encode(head, begin, end, thread) for pieces of keys [begin, end) of every head, by
  // several threads where there is enough to do.
  template <typename Encode>
  static void ForEachPiece(int64_t heads, int64_t begin, int64_t end, Workers& workers,
                           const Encode& encode) {
    constexpr int64_t kPieceKeys = 1024;
    const int64_t pieces = (end - begin + kPieceKeys - 1) / kPieceKeys;
    const auto piece = [&](int64_t item, int thread) {
      const int64_t first = begin + item % pieces * kPieceKeys;
      encode(item / pieces, first, std::min(end, first + kPieceKeys), thread);
    };
    workers.Run(heads * pieces, piece);
  }

  HeadKeys KeysOf(const SequenceKv& kv, int64_t kv_head) const {
    return {kv.Keys(kv_head), shape_.element};
  }

  const LayerShape shape_;

 private:
  std::vector<int64_t> covered_;
};

using CoveringIndex = CoveringIndexOf<ScoredIndex>;

// The index as a masker hands it out, or that there is no memory for `what` it holds.
template <typename Index>
absl::StatusOr<std::unique_ptr<KeyIndex>> IfAllocated(std::unique_ptr<Index> index,
                                                      const StepPlan& plan, const char* what) {
  if (!index->allocated() && plan.capacity > 0) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the ", what, " of ",
                                                     plan.sequences, " sequences of ",
                                                     plan.capacity, " keys"));
  }
  return index;
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COVERING_INDEX_H_
