// Rows that come in blocks beside a bitmap of what is excluded. Only for kernel sources, as simd.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BLOCKS_INL_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BLOCKS_INL_H_

#include <cstdint>
#include <cstring>

#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"

// A lambda that is inlined like an SA_INLINE function.
#define SA_LAMBDA __attribute__((always_inline))

namespace sparse_attention::cpu::SA_ISA {

SA_INLINE bool Excluded(const uint64_t* excluded, int64_t j) {
  return excluded != nullptr && (excluded[j >> 6] >> (j & 63) & 1) != 0;
}

// How many of the first n entries are excluded.
SA_INLINE int64_t CountExcluded(const uint64_t* excluded, int64_t n) {
  if (excluded == nullptr) return 0;
  const int64_t whole = n >> 6;
  int64_t count = 0;
  for (int64_t w = 0; w < whole; ++w) count += CountBits(excluded[w]);
  if ((n & 63) != 0) count += CountBits(excluded[whole] & LowMask(static_cast<int>(n & 63)));
  return count;
}

// Somewhere in the i-th of `count` stretches of a row of n < 2^40 entries: a sample of a row that
// may have a period. 0 <= i < count <= n.
SA_INLINE int64_t SamplePlace(int64_t i, int64_t count, int64_t n) {
  const uint64_t stretch = (static_cast<uint64_t>(n) << 16) / static_cast<uint64_t>(count);
  const uint32_t hash = static_cast<uint32_t>(i + 1) * 0x9E3779B1u;  // golden ratio
  const uint64_t within = (stretch * (hash >> 16)) >> 16;
  return static_cast<int64_t>((static_cast<uint64_t>(i) * stretch + within) >> 16);
}

// How a word of a block is handed on: all of its entries take part, and it is the block's alone; or
// whatever else.
struct WholeWord {
  static constexpr bool kWhole = true;
};
struct PartialWord {
  static constexpr bool kWhole = false;
};

// Calls word(w, scores of 64 entries, the bits of those that take part, WholeWord or PartialWord)
// for every word of the block, until it returns false. Words that the block fills in part are
// copied, so that 64 scores can be read.
template <typename T, typename Word>
SA_INLINE void ForWords(int64_t begin, const T* scores, int64_t count, const uint64_t* excluded,
                        const Word& word) {
  int64_t w = begin >> 6;
  const int offset = static_cast<int>(begin & 63);
  T part[64];
  if (offset != 0) {
    const int length = static_cast<int>(count < 64 - offset ? count : 64 - offset);
    std::memset(part, 0, sizeof(part));
    std::memcpy(part + offset, scores, sizeof(T) * static_cast<size_t>(length));
    const uint64_t held = excluded == nullptr ? 0 : excluded[w];
    if (!word(w, part, LowMask(length) << offset & ~held, PartialWord())) return;
    scores += length;
    count -= length;
    ++w;
  }
  if (excluded == nullptr) {
    for (; count >= 64; ++w, scores += 64, count -= 64) {
      if (!word(w, scores, ~uint64_t{0}, WholeWord())) return;
    }
  } else {
    for (; count >= 64; ++w, scores += 64, count -= 64) {
      if (!word(w, scores, ~excluded[w], PartialWord())) return;
    }
  }
  if (count > 0) {
    std::memset(part, 0, sizeof(part));
    std::memcpy(part, scores, sizeof(T) * static_cast<size_t>(count));
    const uint64_t held = excluded == nullptr ? 0 : excluded[w];
    word(w, part, LowMask(static_cast<int>(count)) & ~held, PartialWord());
  }
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BLOCKS_INL_H_
