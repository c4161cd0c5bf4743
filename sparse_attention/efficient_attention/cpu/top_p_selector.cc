#include "sparse_attention/efficient_attention/cpu/top_p_selector.h"

#include <algorithm>
#include <limits>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kWordKeys = 64;
constexpr int64_t kPieceKeys = 1024;  // of held keys, whose masses are only summed

// The open mass, and what is held of the same whole.
struct Mass {
  double open = 0;
  double held = 0;
};

// The masses of an item's keys that take part. Rows begin at the key of a bitmap's word, so that a
// bitmap's words and the masses' places agree.
class MassRows {
 public:
  MassRows(const StepItem& item, bool of_total)
      : item_(item),
        of_total_(of_total),
        begin_(of_total ? item.held.first() : item.held.open_begin()),
        end_(of_total ? item.held.end() : item.held.open_end()),
        base_(begin_ / kWordKeys * kWordKeys),
        kernels_(TopPKernelsFor(item.plan.isa)),
        held_(item.arena.Take<uint64_t>(BitmapWords(size()))),
        masses_(item.arena.Take<float>(size())),
        reduced_(item.plan.by_group ? item.arena.Take<float>(size()) : nullptr),
        scratch_(item.arena.Take<float>(TopPScratchFloats(size()))) {}

  static size_t ScratchBytes(const StepPlan& plan) {
    const int64_t most = plan.capacity + kWordKeys;
    return Arena::Bytes<uint64_t>(BitmapWords(most)) +
           Arena::Bytes<float>(most) * (plan.by_group ? 2 : 1) +
           Arena::Bytes<float>(TopPScratchFloats(most));
  }

  // Adds to `selected`, a bitmap from key 0 on, what the set selects.
  void Select(int set, const TopPOptions& options, uint64_t* selected) {
    const uint64_t* const excluded = Excluded(set);
    const bool by_group = item_.plan.by_group;
    const Mass mass = by_group ? GroupMasses(excluded) : RowMasses(set, excluded);
    if (!(mass.open > 0)) return;
    double share = options.top_p;
    if (of_total_) {
      share = MissingShare(options.top_p, mass.open, mass.held);
      if (!(share > 0)) return;
    }
    const float* const masses = by_group ? reduced_ : masses_;
    const float threshold =
        kernels_.threshold(masses, size(), std::clamp(share, 0.0, 1.0), options.rule, scratch_);
    kernels_.select_reaching(masses, size(), threshold, excluded, selected + base_ / kWordKeys);
  }

 private:
  int64_t size() const { return end_ - base_; }

  // What no mass of a set is open for, from base_ on, or null.
  const uint64_t* Excluded(int set) const {
    const HeldKeys& held = item_.held;
    const uint64_t* const bits = held.bits(set);
    if (!of_total_ && base_ == begin_) return bits == nullptr ? nullptr : bits + base_ / kWordKeys;
    if (bits == nullptr) {
      std::fill_n(held_, BitmapWords(size()), 0);
    } else {
      std::copy_n(bits + base_ / kWordKeys, BitmapWords(size()), held_);
    }
    SetBits(held_, 0, held.open_begin() - base_);
    SetBits(held_, held.open_end() - base_, size());
    return held_;
  }

  // Of one query head, to masses_.
  Mass RowMasses(int row, const uint64_t* excluded) const {
    // Before begin_ there are logits of no meaning, which are excluded, or -infinity.
    const float* const logits = item_.logits.At(row, base_);
    // Relative to the highest key that takes part: beside a far heavier one that is held already,
    // what is left would all round to 0.
    const float top = kernels_.highest(logits, size(), of_total_ ? nullptr : excluded);
    Mass mass;
    if (of_total_) mass.held = HeldMass(logits, excluded, top);
    mass.open = kernels_.masses(logits, size(), excluded, top, masses_);
    return mass;
  }

  double HeldMass(const float* logits, const uint64_t* held, float top) const {
    double sum = 0;
    for (int64_t first = 0; first < size(); first += kPieceKeys) {
      const int64_t count = std::min(kPieceKeys, size() - first);
      uint64_t open[BitmapWords(kPieceKeys)];
      for (int64_t w = 0; w < BitmapWords(count); ++w) open[w] = ~held[first / kWordKeys + w];
      float unused[kPieceKeys];
      sum += kernels_.masses(logits + first, count, open, top, unused);
    }
    return sum;
  }

  // The heads' shares of their own wholes, reduced, to reduced_. A mean is the sum: only shares of
  // the result are asked for.
  Mass GroupMasses(const uint64_t* excluded) const {
    const bool highest = item_.plan.reduce == StepPlan::Reduce::kMax;
    std::fill_n(reduced_, size(), 0.f);
    Mass mass;
    for (int row = 0; row < item_.rows(); ++row) {
      const Mass of_row = RowMasses(row, excluded);
      const double all = of_row.open + of_row.held;
      if (all == 0) continue;
      for (int64_t j = 0; j < size(); ++j) {
        const float share = static_cast<float>(masses_[j] / all);
        reduced_[j] = highest ? std::max(reduced_[j], share) : reduced_[j] + share;
      }
      const double held = of_row.held / all;
      mass.held = highest ? std::max(mass.held, held) : mass.held + held;
    }
    for (int64_t j = 0; j < size(); ++j) mass.open += reduced_[j];
    return mass;
  }

  const StepItem& item_;
  const bool of_total_;
  const int64_t begin_, end_, base_;
  const TopPKernels kernels_;
  uint64_t* const held_;
  float* const masses_;   // of one head
  float* const reduced_;  // over the heads
  float* const scratch_;
};

}  // namespace

int64_t TopPSelector::ScoringBytes(const StepPlan& plan, int64_t keys) const {
  return keys * plan.shape.kv_heads * plan.shape.dim * ElementBytes(plan.shape.element);
}

size_t TopPSelector::ScratchBytes(const StepPlan& plan) const {
  return MassRows::ScratchBytes(plan);
}

bool TopPSelector::HoldsAll(const StepItem& item) const {
  return item.keys <= static_cast<int64_t>(options_.top_p * static_cast<double>(item.keys));
}

KeySpan TopPSelector::LogitsNeeded(const StepItem& item) const {
  if (HoldsAll(item)) return {};
  const HeldKeys& held = item.held;
  if (options_.of_total) return {held.first(), held.end()};
  return {held.open_begin(), held.open_end()};
}

void TopPSelector::Select(StepItem& item, const KeyIndex*) const {
  if (HoldsAll(item)) return item.held.HoldAll();
  const HeldKeys& held = item.held;
  uint64_t* selected[kMostGroup];
  for (int set = 0; set < held.sets(); ++set) {
    selected[set] = item.held.MutableBits(set, item.arena);
  }
  ArenaScope scope(item.arena);
  MassRows rows(item, options_.of_total);
  for (int set = 0; set < held.sets(); ++set) rows.Select(set, options_, selected[set]);
}

}  // namespace sparse_attention::cpu
