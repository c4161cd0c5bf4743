#include <type_traits>

#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_lines.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int64_t kBlockKeys = 1024;  // sums of two rows that stay in the first-level cache

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

// A table in memory, of any size. A table type says how many keys it looks up at a time, kVectors
// vectors, and how many tables and rows of it fit the registers. Its look-ups are single loads,
// which are faster than the gathers of machines that have both.
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
    for (int i = 0; i < kParts; ++i) {
      const int left = entries - 16 * i;
      const uint32_t mask = left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1;
      part[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), table + 16 * i);
    }
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

// Adds kTables look-ups of kRows rows for `count` keys from `begin` on to `sums`, kBlockKeys floats
// a row; where these are the last tables the scores go to `out`.
template <typename Table, int kTables, int kRows, Line kLine>
SA_INLINE void AddTables(const LookupProblem& p, int table, int row, int64_t begin, int64_t count,
                         float* sums, float* out, int64_t out_stride) {
  using Code = typename Table::Code;
  constexpr int kVectors = Table::kVectors, kKeys = kVectors * kLanes;
  static_assert(kBlockKeys % kKeys == 0);
  const int entries = 1 << p.bits;
  const bool first = table == 0, last = table + kTables == p.tables;
  Table tables[kTables][kRows];
  const Code* codes[kTables];
  for (int t = 0; t < kTables; ++t) {
    codes[t] = static_cast<const Code*>(p.codes) + (table + t) * p.code_stride + begin;
    for (int r = 0; r < kRows; ++r) {
      tables[t][r].Load(
          p.table + (row + r) * p.row_stride + (table + t) * static_cast<int64_t>(entries),
          entries);
    }
  }
  const float* const weights = p.weights == nullptr ? nullptr : p.weights + begin;
  const auto step = [&](int64_t j, const Code* const* code, int keys)
      __attribute__((always_inline)) {
    F32 sum[kRows][kVectors];
    if (!first) {
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] = Load(sums + r * kBlockKeys + j + v * kLanes);
        }
      }
    }
    for (int t = 0; t < kTables; ++t) {
      const typename Table::Codes of_keys = Table::Read(code[t]);
      for (int r = 0; r < kRows; ++r) {
        F32 x[kVectors];
        tables[t][r].At(of_keys, x);
        for (int v = 0; v < kVectors; ++v) sum[r][v] = first && t == 0 ? x[v] : sum[r][v] + x[v];
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      if (last) {
        const int left = keys - v * kLanes;
        if (left <= 0) return;
        const int lanes = left < kLanes ? left : kLanes;
        const int64_t at = j + v * kLanes;
        F32 score[kRows];
        for (int r = 0; r < kRows; ++r) score[r] = sum[r][v];
        if (weights != nullptr) {
          const F32 weight = LoadCount(weights + at, lanes);
          for (int r = 0; r < kRows; ++r) score[r] = score[r] * weight;
        }
        Emit<kRows, kLine>(score, row, p.rows, p.reduce, out + at, out_stride, lanes);
      } else {
        for (int r = 0; r < kRows; ++r) Store(sum[r][v], sums + r * kBlockKeys + j + v * kLanes);
      }
    }
  };
  int64_t j = 0;
  for (; j + kKeys <= count; j += kKeys) {
    const Code* code[kTables];
    for (int t = 0; t < kTables; ++t) code[t] = codes[t] + j;
    step(j, code, kKeys);
  }
  if (j == count) return;
  Code rest[kTables][kKeys] = {};  // behind the last keys stand codes 0
  const Code* code[kTables];
  for (int t = 0; t < kTables; ++t) {
    std::memcpy(rest[t], codes[t] + j, sizeof(Code) * static_cast<size_t>(count - j));
    code[t] = rest[t];
  }
  step(j, code, static_cast<int>(count - j));
}

template <typename Table, int kRows, Line kLine>
SA_INLINE void AddAllTables(const LookupProblem& p, int row, int64_t begin, int64_t count,
                            float* sums, float* out, int64_t out_stride) {
  constexpr int kTables = Table::kTablesAtOnce;
  int table = 0;
  for (; table + kTables <= p.tables; table += kTables) {
    AddTables<Table, kTables, kRows, kLine>(p, table, row, begin, count, sums, out, out_stride);
  }
  for (; table < p.tables; ++table) {
    AddTables<Table, 1, kRows, kLine>(p, table, row, begin, count, sums, out, out_stride);
  }
}

template <typename Table, Line kLine>
void ScoreLine(const LookupProblem& p, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  constexpr int kRows = Table::kRowsAtOnce;
  float sums[kRows * kBlockKeys];
  for (int64_t j = begin; j < end; j += kBlockKeys) {
    const int64_t count = end - j < kBlockKeys ? end - j : kBlockKeys;
    float* const line = out + (j - begin);
    int row = 0;
    for (; row + kRows <= p.rows; row += kRows) {
      AddAllTables<Table, kRows, kLine>(p, row, j, count, sums, line, out_stride);
    }
    for (; row < p.rows; ++row) {
      AddAllTables<Table, 1, kLine>(p, row, j, count, sums, line, out_stride);
    }
  }
}

// Tables up to this size are looked up for four rows by one load each.
constexpr int kMaxInterleavedBits = 11;
constexpr int64_t kInterleavedKeys = 2048;  // for which a table is interleaved anew

// to[e] = entry e of four rows.
SA_INLINE void Interleave(const float* const* rows, int entries, F4* to) {
  for (int e = 0; e < entries; e += 4) {
    F4 x[4];
    for (int r = 0; r < 4; ++r) {
      x[r] = entries >= 4 ? LoadF4(rows[r] + e) : F4{rows[r][0], rows[r][1], 0, 0};
    }
    Transpose4(x);
    for (int i = 0; i < 4; ++i) to[e + i] = x[i];
  }
}

// sums[j] += the entries of key j, of four rows each, in kTables tables.
template <typename Code, int kTables>
SA_INLINE void AddInterleaved(const F4* tables, int entries, const Code* const* codes, bool first,
                              int64_t count, F4* sums) {
  for (int64_t j = 0; j < count; j += 8) {
    Code rest[kTables][8] = {};
    const Code* at[kTables];
    for (int t = 0; t < kTables; ++t) {
      at[t] = codes[t] + j;
      if (count - j < 8) {  // behind the last keys stand codes 0
        std::memcpy(rest[t], at[t], sizeof(Code) * static_cast<size_t>(count - j));
        at[t] = rest[t];
      }
    }
    F4 sum[8];
    for (int i = 0; i < 8 && !first; ++i) sum[i] = sums[j + i];
    for (int t = 0; t < kTables; ++t) {
      ForEightCodes(
          at[t], [&](int i, Code code) __attribute__((always_inline)) {
            const F4 x = tables[t * entries + code];
            sum[i] = first && t == 0 ? x : sum[i] + x;
          });
    }
    for (int i = 0; i < 8; ++i) sums[j + i] = sum[i];
  }
}

template <typename Code, Line kLine>
void ScoreInterleaved(const LookupProblem& p, int64_t begin, int64_t end, float* out,
                      int64_t out_stride) {
  alignas(64) F4 tables[1 << kMaxInterleavedBits];
  alignas(64) F4 sums[kInterleavedKeys];
  const int entries = 1 << p.bits;
  const auto of_code = [&](int32_t t, int64_t j) {
    return static_cast<const Code*>(p.codes) + t * p.code_stride + j;
  };
  for (int64_t block = begin; block < end; block += kInterleavedKeys) {
    const int64_t count = end - block < kInterleavedKeys ? end - block : kInterleavedKeys;
    for (int row = 0; row < p.rows; row += 4) {
      const int rows = p.rows - row < 4 ? p.rows - row : 4;
      const auto load = [&](int32_t t, F4* to) {
        const float* of_row[4];
        for (int r = 0; r < 4; ++r) {  // behind the last row the first again
          of_row[r] = p.table + (row + (r < rows ? r : 0)) * p.row_stride + t * int64_t{entries};
        }
        Interleave(of_row, entries, to);
      };
      int32_t t = 0;
      // Two tables where they fill no more than half of the first-level cache.
      for (; p.bits <= 9 && t + 2 <= p.tables; t += 2) {
        const int second = entries < 4 ? 4 : entries;
        load(t, tables);
        load(t + 1, tables + second);
        const Code* const codes[2] = {of_code(t, block), of_code(t + 1, block)};
        AddInterleaved<Code, 2>(tables, second, codes, t == 0, count, sums);
      }
      for (; t < p.tables; ++t) {
        load(t, tables);
        const Code* const codes[1] = {of_code(t, block)};
        AddInterleaved<Code, 1>(tables, entries, codes, t == 0, count, sums);
      }
      for (int64_t j = 0; j < count; j += kLanes) {
        const int lanes = static_cast<int>(count - j < kLanes ? count - j : kLanes);
        F4 lines[4][kLanes / 4];
        for (int i = 0; i < kLanes / 4; ++i) {
          F4 x[4];
          for (int k = 0; k < 4; ++k) x[k] = sums[j + 4 * i + k];
          Transpose4(x);
          for (int r = 0; r < 4; ++r) lines[r][i] = x[r];
        }
        const int64_t key = block + j;
        for (int r = 0; r < rows; ++r) {
          F32 score = Join(lines[r]);
          if (p.weights != nullptr) score = score * LoadCount(p.weights + key, lanes);
          Emit<1, kLine>(&score, row + r, p.rows, p.reduce, out + (key - begin), out_stride, lanes);
        }
      }
    }
  }
}

SA_INLINE bool AllFinite(const LookupProblem& p) {
  const int64_t size = static_cast<int64_t>(p.tables) << p.bits;
  F32 zeros = {};  // x - x is 0 or NaN
  for (int r = 0; r < p.rows; ++r) {
    const float* const table = p.table + r * p.row_stride;
    for (int64_t i = 0; i < size; i += kLanes) {
      const F32 x = LoadCount(table + i, static_cast<int>(size - i < kLanes ? size - i : kLanes));
      zeros = zeros + (x - x);
    }
  }
  return SumLanes(zeros) == 0;
}

template <typename Table, Line kLine>
SA_INLINE void ScoreLines(const LookupProblem& p, int64_t begin, int64_t end, float* out,
                          int64_t out_stride) {
  if constexpr (!Table::kInRegisters && sizeof(typename Table::Code) <= 2) {
    if (p.rows > 2 && p.bits <= kMaxInterleavedBits) {
      return ScoreInterleaved<typename Table::Code, kLine>(p, begin, end, out, out_stride);
    }
  }
  ScoreLine<Table, kLine>(p, begin, end, out, out_stride);
}

template <typename Table>
SA_INLINE void ScoreBy(const LookupProblem& p, int64_t begin, int64_t end, float* out,
                       int64_t out_stride) {
  switch (p.reduce) {
    case RowReduce::kNone:
      return ScoreLines<Table, Line::kNone>(p, begin, end, out, out_stride);
    case RowReduce::kMax:
      if constexpr (Table::kInRegisters) {  // finite entries do not add up to NaN
        if (p.weights == nullptr && AllFinite(p)) {
          return ScoreLine<Table, Line::kFiniteMax>(p, begin, end, out, out_stride);
        }
      }
      return ScoreLines<Table, Line::kMax>(p, begin, end, out, out_stride);
    case RowReduce::kSum:
    case RowReduce::kMean:
      return ScoreLines<Table, Line::kSum>(p, begin, end, out, out_stride);
  }
}

void Score(const LookupProblem& p, int64_t begin, int64_t end, float* out, int64_t out_stride) {
#if defined(SA_AVX512)
  if (p.bits <= 5) return ScoreBy<FloatTable<5>>(p, begin, end, out, out_stride);
  if (p.bits == 6) return ScoreBy<FloatTable<6>>(p, begin, end, out, out_stride);
#endif
#if defined(SA_AVX512_BF16)
  if (p.bits == 7) return ScoreBy<ByteTable<7>>(p, begin, end, out, out_stride);
  if (p.bits == 8) return ScoreBy<ByteTable<8>>(p, begin, end, out, out_stride);
#endif
#if defined(SA_NEON)
  // Of more rows one load reads an entry of four.
  if (p.rows <= 2 && p.bits <= 5) return ScoreBy<ByteTable<5>>(p, begin, end, out, out_stride);
  if (p.rows <= 2 && p.bits == 6) return ScoreBy<ByteTable<6>>(p, begin, end, out, out_stride);
#endif
  if (CodeBytes(p.bits) == 4) {
    return ScoreBy<MemoryTable<uint32_t>>(p, begin, end, out, out_stride);
  }
#if !defined(SA_AVX512_BF16)  // where all smaller tables fit the registers
  if (CodeBytes(p.bits) == 1) {
    return ScoreBy<MemoryTable<uint8_t>>(p, begin, end, out, out_stride);
  }
#endif
  ScoreBy<MemoryTable<uint16_t>>(p, begin, end, out, out_stride);
}

void Merge(const LookupProblem& p, float* merged) {
  const int64_t size = static_cast<int64_t>(p.tables) << p.bits;
  for (int64_t i = 0; i < size; i += kLanes) {
    const int count = static_cast<int>(size - i < kLanes ? size - i : kLanes);
    F32 sum = LoadFirst(p.table + i, count);
    for (int r = 1; r < p.rows; ++r) sum = sum + LoadFirst(p.table + r * p.row_stride + i, count);
    StoreFirst(sum, merged + i, count);
  }
}

template <typename Code>
SA_INLINE void AppendCodes(const int32_t* codes, int64_t stride, int64_t count, int32_t tables,
                           Code* index, int64_t code_stride, int64_t first) {
  for (int64_t j = 0; j < count; ++j) {
    for (int32_t t = 0; t < tables; ++t) {
      index[t * code_stride + first + j] = static_cast<Code>(codes[j * stride + t]);
    }
  }
}
void Append(const int32_t* codes, int64_t stride, int64_t count, int32_t tables, int32_t bits,
            void* index, int64_t code_stride, int64_t first) {
  switch (CodeBytes(bits)) {
    case 1:
      return AppendCodes(codes, stride, count, tables, static_cast<uint8_t*>(index), code_stride,
                         first);
    case 2:
      return AppendCodes(codes, stride, count, tables, static_cast<uint16_t*>(index), code_stride,
                         first);
    default:
      return AppendCodes(codes, stride, count, tables, static_cast<uint32_t*>(index), code_stride,
                         first);
  }
}

template <typename T>
SA_INLINE float Norm(const T* row, int32_t dim) {
  F32 squares = {};
  int32_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const F32 x = LoadFloats(row + i);
    squares = MulAdd(x, x, squares);
  }
  if (i < dim) {
    const F32 x = LoadFirst(row + i, dim - i);
    squares = MulAdd(x, x, squares);
  }
  const float norm = __builtin_sqrtf(SumLanes(squares));
  return norm - norm == 0 ? norm : 0;
}
void ValueNorms(const RowView& values, Element element, int32_t dim, int64_t begin, int64_t end,
                float* norms) {
  for (int64_t j = begin; j < end; ++j) {
    const char* const row = values.Row(j);
    switch (element) {
      case Element::kFloat32:
        norms[j] = Norm(reinterpret_cast<const float*>(row), dim);
        break;
      case Element::kFloat16:
        norms[j] = Norm(reinterpret_cast<const Float16*>(row), dim);
        break;
      case Element::kBFloat16:
        norms[j] = Norm(reinterpret_cast<const BFloat16*>(row), dim);
        break;
    }
  }
}

}  // namespace

LookupKernels MakeLookupKernels() { return {Score, Merge, Append, ValueNorms}; }

}  // namespace sparse_attention::cpu::SA_ISA
