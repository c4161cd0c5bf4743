#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/lookup_tables.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_lines.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int64_t kBlockKeys = 1024;  // sums of two rows that stay in the first-level cache

// Adds kTables look-ups of kRows rows for `count` keys from `begin` on to `sums`, kBlockKeys floats
// a row; where these are the last tables the scores go to `out`.
template <typename Table, int kTables, int kRows, Line kLine>
SA_INLINE void AddTables(const LookupProblem& p, int table, int row, int64_t begin, int64_t count,
                         float* sums, float* out, int64_t out_stride) {
  using Code = typename Table::Code;
  constexpr int kVectors = Table::kVectors, kKeys = kVectors * kLanes;
  static_assert(kBlockKeys % kKeys == 0);
  const int entries = static_cast<int>(TableFloats(p));
  const bool first = table == 0, last = table + kTables == p.tables;
  Table tables[kTables][kRows];
  const Code *codes[kTables], *next[kTables];
  for (int t = 0; t < kTables; ++t) {
    codes[t] = static_cast<const Code*>(p.codes) + (table + t) * p.code_stride + begin;
    // The same keys in the next tables; after the last ones the next keys in the first.
    next[t] =
        last ? codes[t] - table * p.code_stride + kBlockKeys : codes[t] + kTables * p.code_stride;
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
    for (int t = 0; t < kTables; ++t) {
      code[t] = codes[t] + j;
      if (row == 0 && j % (64 / static_cast<int>(sizeof(Code))) == 0) PrefetchL2(next[t] + j);
    }
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
        if (p.weights == nullptr && !p.factored && AllFinite(p)) {
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
  if (p.factored) {
    if (p.bits <= 8) return ScoreBy<HalvesTable<uint8_t, 4>>(p, begin, end, out, out_stride);
    return ScoreBy<HalvesTable<uint16_t, 5>>(p, begin, end, out, out_stride);
  }
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

LookupKernels MakeLookupKernels() {
#if defined(SA_AVX512)
  constexpr int kLeastFactored = 7, kMostFactored = 10;
#else
  constexpr int kLeastFactored = 1, kMostFactored = 0;
#endif
  return {Score, Merge, Append, ValueNorms, kLeastFactored, kMostFactored};
}

}  // namespace sparse_attention::cpu::SA_ISA
