// Bitmaps over the keys of a row: bit j % 64 of word j / 64 is key j. Bits at and beyond the number
// of keys are 0.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITMAP_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITMAP_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

constexpr int64_t BitmapWords(int64_t n) { return (n + 63) / 64; }

constexpr bool TestBit(const uint64_t* words, int64_t j) { return words[j / 64] >> (j % 64) & 1; }

// Bits [begin, end).
inline void SetBits(uint64_t* words, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t first = begin / 64, last = (end - 1) / 64;
  const uint64_t head = ~uint64_t{0} << (begin % 64);
  const uint64_t tail = ~uint64_t{0} >> (63 - (end - 1) % 64);
  if (first == last) {
    words[first] |= head & tail;
    return;
  }
  words[first] |= head;
  for (int64_t w = first + 1; w < last; ++w) words[w] = ~uint64_t{0};
  words[last] |= tail;
}
inline void ClearBits(uint64_t* words, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t first = begin / 64, last = (end - 1) / 64;
  const uint64_t head = ~uint64_t{0} << (begin % 64);
  const uint64_t tail = ~uint64_t{0} >> (63 - (end - 1) % 64);
  if (first == last) {
    words[first] &= ~(head & tail);
    return;
  }
  words[first] &= ~head;
  for (int64_t w = first + 1; w < last; ++w) words[w] = 0;
  words[last] &= ~tail;
}

struct BitmapKernels {
  // The number of set bits.
  int64_t (*count)(const uint64_t* words, int64_t num_words);

  // inout &= ~drop.
  void (*and_not)(const uint64_t* drop, int64_t num_words, uint64_t* inout);

  // The number of set bits below bit j.
  int64_t (*rank)(const uint64_t* words, int64_t j);

  // The set bits, ascending, each plus `base`; at most `capacity` of them are written. Returns how
  // many. out[capacity], of which what lies behind the returned number is arbitrary.
  int64_t (*to_list)(const uint64_t* words, int64_t num_words, uint32_t base, uint32_t* out,
                     int64_t capacity);

  // The bits set in any of num_rows <= 16 bitmaps, ascending, each plus `base`, and in `members`
  // which rows have it: bit r for rows[r]. keys[capacity], members[capacity], as in to_list.
  int64_t (*union_to_list)(const uint64_t* const* rows, int32_t num_rows, int64_t num_words,
                           uint32_t base, uint32_t* keys, uint16_t* members, int64_t capacity);

  // out |= bit i of `bits` at the i-th set bit of `mask`, for all of those.
  // bits[count(mask) / 64 + 2]: what lies behind the bits is read, whatever it holds.
  void (*deposit)(const uint64_t* bits, const uint64_t* mask, int64_t num_words, uint64_t* out);
};

BitmapKernels BitmapKernelsFor(Isa isa);

SA_DECLARE_ISAS(BitmapKernels MakeBitmapKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITMAP_H_
