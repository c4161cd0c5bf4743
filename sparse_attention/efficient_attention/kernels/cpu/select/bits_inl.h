// Bits of 64-bit words in the instruction set that a kernel's source is being compiled for. Only
// for kernel sources, as simd.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITS_INL_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITS_INL_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {

SA_INLINE int CountBits(uint64_t word) {
#if defined(__POPCNT__) || !defined(__x86_64__)
  return __builtin_popcountll(word);
#else
  // The builtin would call a function of the compiler's library.
  word -= (word >> 1) & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
  return static_cast<int>((word * 0x0101010101010101u) >> 56);
#endif
}

// The place of the lowest set bit; word != 0.
SA_INLINE int LowestBit(uint64_t word) { return __builtin_ctzll(word); }

// Bit i of `bits` at the place of the i-th set bit of `mask`.
SA_INLINE uint64_t DepositBits(uint64_t bits, uint64_t mask) {
#if defined(__BMI2__)
  return _pdep_u64(bits, mask);
#else
  if (mask == ~uint64_t{0}) return bits;
  uint64_t out = 0;
  for (; mask != 0 && bits != 0; bits >>= 1, mask &= mask - 1) {
    if (bits & 1) out |= mask & (~mask + 1);
  }
  return out;
#endif
}

// The lowest `count` set bits of `word`, 0 <= count <= 64.
SA_INLINE uint64_t FirstBits(uint64_t word, int count) {
  if (count >= 64) return word;
  return DepositBits((uint64_t{1} << count) - 1, word);
}

// The bits below `count`, 0 <= count <= 64.
SA_INLINE uint64_t LowMask(int count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Words needed for n bits.
SA_INLINE int64_t WordsFor(int64_t n) { return (n + 63) >> 6; }

// The set bits of a & b, which may be one.
SA_INLINE int64_t CountBoth(const uint64_t* a, const uint64_t* b, int64_t words) {
  int64_t w = 0, count = 0;
#if defined(SA_AVX512_BF16)
  __m512i counts = _mm512_setzero_si512();
  for (; w + 8 <= words; w += 8) {
    const __m512i both = _mm512_and_si512(_mm512_loadu_si512(a + w), _mm512_loadu_si512(b + w));
    counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(both));
  }
  count = _mm512_reduce_add_epi64(counts);
#elif defined(SA_NEON)
  uint64x2_t counts = vdupq_n_u64(0);
  for (; w + 8 <= words; w += 8) {
    uint8x16_t ones = vdupq_n_u8(0);  // up to 32 a byte
    for (int i = 0; i < 8; i += 2) {
      const uint64x2_t both = vandq_u64(vld1q_u64(a + w + i), vld1q_u64(b + w + i));
      ones = vaddq_u8(ones, vcntq_u8(vreinterpretq_u8_u64(both)));
    }
    counts = vpadalq_u32(counts, vpaddlq_u16(vpaddlq_u8(ones)));
  }
  count = static_cast<int64_t>(vaddvq_u64(counts));
#endif
  for (; w < words; ++w) count += CountBits(a[w] & b[w]);
  return count;
}
SA_INLINE int64_t CountWords(const uint64_t* words, int64_t num_words) {
  return CountBoth(words, words, num_words);
}

// out |= the bits of `bits`, in order, at the set bits of `mask`: one bit for each.
// bits[count / 64 + 2] for `count` set bits: what lies behind them is read, whatever it holds.
SA_INLINE void DepositWords(const uint64_t* bits, const uint64_t* mask, int64_t words,
                            uint64_t* out) {
  int64_t at = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint64_t places = mask[w];
#if !defined(__BMI2__)
    if (places == 0) continue;
#endif
    const int64_t word = at >> 6;
    const int shift = static_cast<int>(at & 63);
    // Two shifts: one of 64 is not defined.
    const uint64_t next = bits[word] >> shift | (bits[word + 1] << 1) << (63 - shift);
    out[w] |= DepositBits(next, places);
    at += CountBits(places);
  }
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_BITS_INL_H_
