// HeldKeys: which keys the query heads of one item hold for certain, while maskers add to them.
//
// What sink and local hold is the same for all heads and costs no index: two ranges. What selectors
// hold is a bitmap a set, a set being one query head, or all heads of the group where they select
// together. Between the ranges lies the open part; bits outside it mean nothing.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_HELD_KEYS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_HELD_KEYS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "sparse_attention/efficient_attention/cpu/arena.h"
#include "sparse_attention/efficient_attention/cpu/step.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"

namespace sparse_attention::cpu {

class HeldKeys {
 public:
  // Nothing of the visible keys [first, end) is held.
  HeldKeys(int64_t first, int64_t end, int sets)
      : first_(first), end_(end), open_begin_(first), open_end_(end), sets_(sets) {}

  int64_t first() const { return first_; }  // visible
  int64_t end() const { return end_; }
  int64_t visible() const { return std::max<int64_t>(0, end_ - first_); }
  int sets() const { return sets_; }

  void HoldAll() {
    open_end_ = open_begin_;
    has_chosen_ = true;
  }
  void HoldBefore(int64_t key) {
    open_begin_ = std::max(open_begin_, std::min(key, end_));
    has_chosen_ = has_chosen_ || key > 0;
  }
  void HoldFrom(int64_t key) {
    open_end_ = std::min(open_end_, std::max(key, first_));
    has_chosen_ = has_chosen_ || key < end_;
  }

  // [open_begin, open_end) is not held by ranges. Everything visible is held where it is empty.
  int64_t open_begin() const { return open_begin_; }
  int64_t open_end() const { return open_end_; }
  bool holds_all() const { return open_begin_ >= open_end_; }
  // No masker has chosen a key yet, not even one that is not visible.
  bool chose_none() const {
    if (has_chosen_) return false;
    for (int s = 0; has_bits_ && s < sets_; ++s) {
      const uint64_t* const words = bits_[s];
      if (std::any_of(words, words + BitmapWords(end_), [](uint64_t word) { return word != 0; })) {
        return false;
      }
    }
    return true;
  }

  // Bit j of a set's bitmap, word j / 64, stands for key j. Null: no selector has run.
  const uint64_t* bits(int set) const { return has_bits_ ? bits_[set] : nullptr; }
  // The same to be added to; all zero at the first call.
  uint64_t* MutableBits(int set, Arena& arena) {
    if (!has_bits_) {
      for (int s = 0; s < sets_; ++s) {
        bits_[s] = arena.Take<uint64_t>(BitmapWords(end_));
        std::memset(bits_[s], 0, sizeof(uint64_t) * static_cast<size_t>(BitmapWords(end_)));
      }
      has_bits_ = true;
    }
    return bits_[set];
  }
  static size_t ScratchBytes(int sets, int64_t keys) {
    return static_cast<size_t>(sets) * Arena::Bytes<uint64_t>(BitmapWords(keys));
  }

 private:
  int64_t first_, end_, open_begin_, open_end_;
  int sets_;
  bool has_bits_ = false, has_chosen_ = false;
  uint64_t* bits_[kMostGroup] = {};
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_HELD_KEYS_H_
