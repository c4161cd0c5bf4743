// The tables of table_lookup_kernel.cc: where their entries lie, and how codes reach them. Only for
// kernel sources, like simd.h.
//
// A table type says how many keys it looks up at a time, kVectors vectors, and how many tables and
// rows of it fit the registers.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LOOKUP_TABLES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LOOKUP_TABLES_H_

#include <type_traits>

#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {

// An F4 is four entries side by side: one key's for four rows, or one row's for four keys.
SA_INLINE F4 LoadF4(const float* p) {
  F4 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

// x[i][k] becomes x[k][i].
SA_INLINE void Transpose4(F4* x) {
  typedef int32_t I4 __attribute__((vector_size(16)));
  const F4 ab_low = __builtin_shuffle(x[0], x[1], I4{0, 4, 1, 5});
  const F4 ab_high = __builtin_shuffle(x[0], x[1], I4{2, 6, 3, 7});
  const F4 cd_low = __builtin_shuffle(x[2], x[3], I4{0, 4, 1, 5});
  const F4 cd_high = __builtin_shuffle(x[2], x[3], I4{2, 6, 3, 7});
  x[0] = __builtin_shuffle(ab_low, cd_low, I4{0, 1, 4, 5});
  x[1] = __builtin_shuffle(ab_low, cd_low, I4{2, 3, 6, 7});
  x[2] = __builtin_shuffle(ab_high, cd_high, I4{0, 1, 4, 5});
  x[3] = __builtin_shuffle(ab_high, cd_high, I4{2, 3, 6, 7});
}

// Fours behind one another, without a way through memory, which would stall.
SA_INLINE F32 Join(const F4* x) {
#if defined(SA_AVX512)
  const __m512 low = _mm512_insertf32x4(_mm512_castps128_ps512(reinterpret_cast<__m128>(x[0])),
                                        reinterpret_cast<__m128>(x[1]), 1);
  const __m512 three = _mm512_insertf32x4(low, reinterpret_cast<__m128>(x[2]), 2);
  return reinterpret_cast<F32>(_mm512_insertf32x4(three, reinterpret_cast<__m128>(x[3]), 3));
#elif defined(SA_AVX2)
  return reinterpret_cast<F32>(_mm256_insertf128_ps(
      _mm256_castps128_ps256(reinterpret_cast<__m128>(x[0])), reinterpret_cast<__m128>(x[1]), 1));
#else
  return x[0];
#endif
}

// Calls use(i, code i) for eight codes, which are read from memory at once.
template <typename Code, typename Use>
SA_INLINE void ForEightCodes(const Code* p, const Use& use) {
  constexpr int kOfWord = 8 / static_cast<int>(sizeof(Code));
  for (int w = 0; w < 8 / kOfWord; ++w) {
    uint64_t word;
    std::memcpy(&word, p + w * kOfWord, sizeof(word));
    for (int i = 0; i < kOfWord; ++i) {
      use(w * kOfWord + i, static_cast<Code>(word >> (8 * sizeof(Code) * i)));
    }
  }
}

// A table in memory, of any size. Its look-ups are single loads, which are faster than the gathers
// of machines that have both.
template <typename CodeType>
struct MemoryTable {
  using Code = CodeType;
  static constexpr int kVectors = 16 / kLanes, kTablesAtOnce = 2, kRowsAtOnce = 2;
  static constexpr bool kInRegisters = false;
  struct Codes {
    const Code* at;
  };
  static SA_INLINE Codes Read(const Code* p) { return {p}; }

  SA_INLINE void Load(const float* table, int) { entries = table; }
  SA_INLINE void At(const Codes& codes, F32* x) const {
    F4 four[4];
    for (int half = 0; half < 2; ++half) {
      const float* of_code[8];
      ForEightCodes(
          codes.at + 8 * half, [&](int i, Code code)
                                   __attribute__((always_inline)) { of_code[i] = entries + code; });
      for (int k = 0; k < 2; ++k) {
        const float* const* const e = of_code + 4 * k;
        four[2 * half + k] = F4{*e[0], *e[1], *e[2], *e[3]};
      }
    }
    for (int v = 0; v < kVectors; ++v) x[v] = Join(four + v * (kLanes / 4));
  }

  const float* entries;
};

#if defined(SA_AVX512)
// Sixteen of a table's entries, from 16 * part on; 0 behind the last.
SA_INLINE __m512 LoadEntries(const float* table, int entries, int part) {
  const int left = entries - 16 * part;
  const uint32_t mask = left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1;
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), table + 16 * part);
}

// 32 or 64 entries in registers, 32 of them being reached by one permutation.
template <int kBits>
struct FloatTable {
  using Code = uint8_t;
  static constexpr int kVectors = 1, kTablesAtOnce = 2, kRowsAtOnce = 2;
  static constexpr bool kInRegisters = true;
  static constexpr int kParts = 1 << (kBits - 4);
  struct Codes {
    __m512i index;
    __mmask16 lower, upper;  // codes below 32, and others
  };
  static SA_INLINE Codes Read(const Code* p) {
    Codes codes = {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 0,
                   0};
    if constexpr (kBits == 6) {
      codes.lower = _mm512_testn_epi32_mask(codes.index, _mm512_set1_epi32(32));
      codes.upper = _mm512_test_epi32_mask(codes.index, _mm512_set1_epi32(32));
    }
    return codes;
  }

  // Of fewer entries than there is room for, too.
  SA_INLINE void Load(const float* table, int entries) {
    for (int i = 0; i < kParts; ++i) part[i] = LoadEntries(table, entries, i);
  }
  SA_INLINE void At(const Codes& codes, F32* x) const {
    if constexpr (kBits == 5) {
      *x = reinterpret_cast<F32>(_mm512_permutex2var_ps(part[0], codes.index, part[1]));
    } else {
      // The other half keeps its codes.
      const __m512 half = _mm512_mask2_permutex2var_ps(part[0], codes.index, codes.lower, part[1]);
      *x = reinterpret_cast<F32>(
          _mm512_mask2_permutex2var_ps(part[2], _mm512_castps_si512(half), codes.upper, part[3]));
    }
  }

  __m512 part[kParts];
};

// A table of `bits` bits by its halves: two look-ups and a product.
template <typename CodeType, int kLowBits>
struct HalvesTable {
  using Code = CodeType;
  static constexpr int kVectors = 1, kTablesAtOnce = 2, kRowsAtOnce = 2;
  static constexpr bool kInRegisters = true;
  static constexpr int kParts = 1 << (kLowBits - 4);
  struct Codes {
    __m512i low, high;  // the look-ups read kLowBits of them
  };
  static SA_INLINE Codes Read(const Code* p) {
    __m512i codes;
    if constexpr (sizeof(Code) == 1) {
      codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    } else {
      codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    return {codes, _mm512_srli_epi32(codes, kLowBits)};
  }

  // `entries` of both halves; the higher may be smaller.
  SA_INLINE void Load(const float* table, int entries) {
    for (int i = 0; i < 2 * kParts; ++i) part[i] = LoadEntries(table, entries, i);
  }
  SA_INLINE void At(const Codes& codes, F32* x) const {
    if constexpr (kParts == 1) {
      *x = reinterpret_cast<F32>(_mm512_permutexvar_ps(codes.low, part[0])) *
           reinterpret_cast<F32>(_mm512_permutexvar_ps(codes.high, part[1]));
    } else {
      *x = reinterpret_cast<F32>(_mm512_permutex2var_ps(part[0], codes.low, part[1])) *
           reinterpret_cast<F32>(_mm512_permutex2var_ps(part[2], codes.high, part[3]));
    }
  }

  __m512 part[2 * kParts];
};
#endif

#if defined(SA_AVX512_BF16)
// 64 codes, code 16 * b + i in byte b of lane i.
SA_INLINE __m512i ReadInterleaved(const uint8_t* p) {
  alignas(64) static constexpr uint8_t kOrder[64] = {
      0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51,  //
      4,  20, 36, 52, 5,  21, 37, 53, 6,  22, 38, 54, 7,  23, 39, 55,  //
      8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59,  //
      12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
  return _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), _mm512_loadu_si512(p));
}

// The floats 0, 2, .. and 1, 3, .. of 32 whose low and high halves are lane i of `low` and `high`.
SA_INLINE void JoinHalves(__m512i low, __m512i high, __m512i* even, __m512i* odd) {
  constexpr __mmask32 kHigh = 0xAAAAAAAA;
  *even = _mm512_mask_blend_epi16(kHigh, low, _mm512_slli_epi32(high, 16));
  *odd = _mm512_mask_blend_epi16(kHigh, _mm512_srli_epi32(low, 16), high);
}

// 128 or 256 entries as four tables of bytes: a permutation looks up a byte of 64 keys.
template <int kBits>
struct ByteTable {
  using Code = uint8_t;
  static constexpr int kVectors = 4, kTablesAtOnce = 1, kRowsAtOnce = kBits == 7 ? 2 : 1;
  static constexpr bool kInRegisters = true;
  static constexpr int kParts = 1 << (kBits - 6);
  struct Codes {
    __m512i index;
    __mmask64 upper;  // codes from 128 on
  };
  static SA_INLINE Codes Read(const Code* p) {
    const __m512i codes = ReadInterleaved(p);
    return {codes, _mm512_movepi8_mask(codes)};
  }

  SA_INLINE void Load(const float* table, int) {
    for (int i = 0; i < kParts; ++i) {
      for (int byte = 0; byte < 4; ++byte) {
        __m128i quarter[4];
        for (int k = 0; k < 4; ++k) {
          const __m512i x = _mm512_loadu_si512(table + 64 * i + 16 * k);
          quarter[k] = _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 8 * static_cast<unsigned>(byte)));
        }
        part[byte][i] =
            _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(quarter[1], quarter[0])),
                               _mm256_set_m128i(quarter[3], quarter[2]), 1);
      }
    }
  }
  SA_INLINE void At(const Codes& codes, F32* x) const {
    __m512i byte[4];
    for (int i = 0; i < 4; ++i) {
      byte[i] = _mm512_permutex2var_epi8(part[i][0], codes.index, part[i][1]);
      if constexpr (kParts == 4) {
        byte[i] = _mm512_mask_blend_epi8(
            codes.upper, byte[i], _mm512_permutex2var_epi8(part[i][2], codes.index, part[i][3]));
      }
    }
    __m512i half[2][2];  // of bytes 0 and 2, of 1 and 3 of a lane
    constexpr __mmask64 kHigh = 0xAAAAAAAAAAAAAAAA;
    for (int i = 0; i < 2; ++i) {
      half[0][i] =
          _mm512_mask_blend_epi8(kHigh, byte[2 * i], _mm512_slli_epi16(byte[2 * i + 1], 8));
      half[1][i] =
          _mm512_mask_blend_epi8(kHigh, _mm512_srli_epi16(byte[2 * i], 8), byte[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      __m512i even, odd;
      JoinHalves(half[i][0], half[i][1], &even, &odd);
      x[i] = reinterpret_cast<F32>(even);
      x[i + 2] = reinterpret_cast<F32>(odd);
    }
  }

  __m512i part[4][kParts];
};
#endif

#if defined(SA_NEON)
// Up to 32 or 64 entries as four tables of bytes: an instruction looks up a byte of 16 keys.
template <int kBits>
struct ByteTable {
  using Code = uint8_t;
  static constexpr int kVectors = 4, kTablesAtOnce = 1, kRowsAtOnce = kBits == 5 ? 2 : 1;
  static constexpr bool kInRegisters = true;
  static constexpr int kParts = 1 << (kBits - 4);
  struct Codes {
    uint8x16_t index;
  };
  static SA_INLINE Codes Read(const Code* p) { return {vld1q_u8(p)}; }

  SA_INLINE void Load(const float* table, int entries) {
    float all[1 << kBits] = {};
    std::memcpy(all, table, sizeof(float) * static_cast<size_t>(entries));
    for (int i = 0; i < kParts; ++i) {
      const uint8x16x4_t bytes = vld4q_u8(reinterpret_cast<const uint8_t*>(all + 16 * i));
      for (int byte = 0; byte < 4; ++byte) part[byte].val[i] = bytes.val[byte];
    }
  }
  SA_INLINE void At(const Codes& codes, F32* x) const {
    uint8x16_t byte[4];
    for (int i = 0; i < 4; ++i) {
      if constexpr (kParts == 2) {
        byte[i] = vqtbl2q_u8(part[i], codes.index);
      } else {
        byte[i] = vqtbl4q_u8(part[i], codes.index);
      }
    }
    const uint8x16x2_t lower = vzipq_u8(byte[0], byte[1]), upper = vzipq_u8(byte[2], byte[3]);
    for (int i = 0; i < 2; ++i) {
      const uint16x8x2_t whole =
          vzipq_u16(vreinterpretq_u16_u8(lower.val[i]), vreinterpretq_u16_u8(upper.val[i]));
      x[2 * i] = reinterpret_cast<F32>(whole.val[0]);
      x[2 * i + 1] = reinterpret_cast<F32>(whole.val[1]);
    }
  }

  std::conditional_t<kParts == 2, uint8x16x2_t, uint8x16x4_t> part[4];
};
#endif

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LOOKUP_TABLES_H_
