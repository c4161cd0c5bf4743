#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bucket_match.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int64_t kBlockKeys = 2048;  // of a table at a time: read in order, kept for all rows
constexpr int64_t kWordKeys = 64;     // of a word of hits
constexpr int kTablesAtOnce = 8;      // between loads and stores of hits

#if defined(SA_AVX512)

constexpr int kRowsAtOnce = 4;

// Among the keys of `missed`, those whose bucket is another one.
SA_INLINE uint64_t StillMissed(uint64_t missed, const uint8_t* held, uint8_t wanted) {
  return _mm512_mask_cmpneq_epi8_mask(missed, _mm512_loadu_si512(held),
                                      _mm512_set1_epi8(static_cast<char>(wanted)));
}
SA_INLINE uint64_t StillMissed(uint64_t missed, const uint16_t* held, uint16_t wanted) {
  const __m512i x = _mm512_set1_epi16(static_cast<int16_t>(wanted));
  const __mmask32 a =
      _mm512_mask_cmpneq_epi16_mask(static_cast<__mmask32>(missed), _mm512_loadu_si512(held), x);
  const __mmask32 b = _mm512_mask_cmpneq_epi16_mask(static_cast<__mmask32>(missed >> 32),
                                                    _mm512_loadu_si512(held + 32), x);
  return _mm512_kunpackd(b, a);
}
SA_INLINE uint64_t StillMissed(uint64_t missed, const uint32_t* held, uint32_t wanted) {
  const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(wanted));
  uint64_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const __mmask16 part = _mm512_mask_cmpneq_epi32_mask(static_cast<__mmask16>(missed >> (16 * i)),
                                                         _mm512_loadu_si512(held + 16 * i), x);
    result |= uint64_t{part} << (16 * i);
  }
  return result;
}
SA_INLINE uint64_t StillMissed(uint64_t missed, const uint64_t* held, uint64_t wanted) {
  const __m512i x = _mm512_set1_epi64(static_cast<int64_t>(wanted));
  uint64_t result = 0;
  for (int i = 0; i < 8; ++i) {
    const __mmask8 part = _mm512_mask_cmpneq_epi64_mask(static_cast<__mmask8>(missed >> (8 * i)),
                                                        _mm512_loadu_si512(held + 8 * i), x);
    result |= uint64_t{part} << (8 * i);
  }
  return result;
}

// 64 keys in a few tables.
template <typename Bucket, int kTables>
SA_INLINE uint64_t Missed(uint64_t missed, const Bucket* held, int64_t stride,
                          const Bucket* wanted) {
  if constexpr (sizeof(Bucket) == 2) {  // both halves stay in mask registers
    __mmask32 a = static_cast<__mmask32>(missed), b = static_cast<__mmask32>(missed >> 32);
    for (int t = 0; t < kTables; ++t) {
      const __m512i x = _mm512_set1_epi16(static_cast<int16_t>(wanted[t]));
      a = _mm512_mask_cmpneq_epi16_mask(a, _mm512_loadu_si512(held + t * stride), x);
      b = _mm512_mask_cmpneq_epi16_mask(b, _mm512_loadu_si512(held + t * stride + 32), x);
    }
    return _mm512_kunpackd(b, a);
  } else {
    for (int t = 0; t < kTables; ++t) missed = StillMissed(missed, held + t * stride, wanted[t]);
    return missed;
  }
}

#else

constexpr int kRowsAtOnce = 1;
constexpr int kVectorBytes = 4 * kLanes;

// 64 keys in a few tables: vectors of as many buckets as a register holds, -1 where one is shared.
template <typename Bucket, int kTables>
SA_INLINE uint64_t Missed(uint64_t missed, const Bucket* held, int64_t stride,
                          const Bucket* wanted) {
  typedef Bucket Vector __attribute__((vector_size(kVectorBytes)));
  constexpr int kOfVector = kVectorBytes / static_cast<int>(sizeof(Bucket));
  Bucket hits[kWordKeys];
  for (int i = 0; i < kWordKeys; i += kOfVector) {
    Vector hit = {};
    for (int t = 0; t < kTables; ++t) {
      Vector x;
      std::memcpy(&x, held + t * stride + i, sizeof(x));
      hit |= reinterpret_cast<Vector>(x == Vector{} + wanted[t]);
    }
    std::memcpy(hits + i, &hit, sizeof(hit));
  }
  // One bit a key.
#if defined(SA_NEON)
  uint8x16_t lanes[4 * sizeof(Bucket)];
  std::memcpy(lanes, hits, sizeof(lanes));
  const uint64_t bits = LaneBits64<sizeof(Bucket)>(lanes);
#else
  uint64_t bits = 0;
  for (int i = 0; i < kWordKeys; ++i) bits |= uint64_t{hits[i] != 0} << i;
#endif
  return missed & ~bits;
}

#endif

// Clears the bits of keys that share one of kTables buckets from words of `missed`; asks for as
// many tables from `next` on.
template <typename Bucket, int kTables, int kRows>
SA_INLINE void ClearShared(const BucketMatchProblem& p, int table, int row, const Bucket* held,
                           int64_t stride, int64_t words, const Bucket* next, uint64_t* missed,
                           int64_t missed_stride) {
  const Bucket* wanted[kRows];
  for (int r = 0; r < kRows; ++r) {
    wanted[r] = static_cast<const Bucket*>(p.queries) + (row + r) * p.tables + table;
  }
  for (int64_t w = 0; w < words; ++w) {
    if (row == 0) {
      for (int t = 0; t < kTables; ++t) {
        const char* const line = reinterpret_cast<const char*>(next + t * stride + w * kWordKeys);
        for (size_t b = 0; b < kWordKeys * sizeof(Bucket); b += 64) PrefetchL2(line + b);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      uint64_t& word = missed[(row + r) * missed_stride + w];
      word = Missed<Bucket, kTables>(word, held + w * kWordKeys, stride, wanted[r]);
    }
  }
}

template <typename Bucket, int kTables>
SA_INLINE void ClearRows(const BucketMatchProblem& p, int table, const Bucket* held, int64_t stride,
                         int64_t words, const Bucket* next, uint64_t* missed,
                         int64_t missed_stride) {
  int row = 0;
  for (; row + kRowsAtOnce <= p.rows; row += kRowsAtOnce) {
    ClearShared<Bucket, kTables, kRowsAtOnce>(p, table, row, held, stride, words, next, missed,
                                              missed_stride);
  }
  for (; row < p.rows; ++row) {
    ClearShared<Bucket, kTables, 1>(p, table, row, held, stride, words, next, missed,
                                    missed_stride);
  }
}

template <typename Bucket>
SA_INLINE void MatchAs(const BucketMatchProblem& p, int64_t begin, int64_t end, uint64_t* out,
                       int64_t out_stride) {
  const Bucket* const buckets = static_cast<const Bucket*>(p.buckets);
  for (int64_t j = begin; j < end; j += kBlockKeys) {
    const int64_t count = end - j < kBlockKeys ? end - j : kBlockKeys;
    const int64_t words = count / kWordKeys, rest = count % kWordKeys;
    uint64_t* const missed = out + (j - begin) / kWordKeys;
    for (int r = 0; r < p.rows; ++r) {
      for (int64_t w = 0; w < MatchWords(count); ++w) missed[r * out_stride + w] = ~uint64_t{0};
    }
    int table = 0;
    for (; table + kTablesAtOnce <= p.tables; table += kTablesAtOnce) {
      // Asks for the next tables meanwhile, after the last for the first of the next block.
      const bool more = table + 2 * kTablesAtOnce <= p.tables;
      const Bucket* const next =
          more ? buckets + (table + kTablesAtOnce) * p.stride + j : buckets + j + kBlockKeys;
      ClearRows<Bucket, kTablesAtOnce>(p, table, buckets + table * p.stride + j, p.stride, words,
                                       next, missed, out_stride);
    }
    for (; table < p.tables; ++table) {
      const Bucket* const held = buckets + table * p.stride + j;
      ClearRows<Bucket, 1>(p, table, held, p.stride, words, held + p.stride, missed, out_stride);
    }
    if (rest > 0) {
      Bucket held[kWordKeys] = {};
      for (table = 0; table < p.tables; ++table) {
        std::memcpy(held, buckets + table * p.stride + j + words * kWordKeys,
                    sizeof(Bucket) * static_cast<size_t>(rest));
        ClearRows<Bucket, 1>(p, table, held, 0, 1, held, missed + words, out_stride);
      }
    }
    for (int r = 0; r < p.rows; ++r) {
      uint64_t* const line = missed + r * out_stride;
      for (int64_t w = 0; w < MatchWords(count); ++w) line[w] = ~line[w];
      if (rest > 0) line[words] &= (uint64_t{1} << rest) - 1;
    }
  }
}

void Match(const BucketMatchProblem& p, int64_t begin, int64_t end, uint64_t* out,
           int64_t out_stride) {
  switch (BucketBytes(p.bits)) {
    case 1:
      return MatchAs<uint8_t>(p, begin, end, out, out_stride);
    case 2:
      return MatchAs<uint16_t>(p, begin, end, out, out_stride);
    case 4:
      return MatchAs<uint32_t>(p, begin, end, out, out_stride);
    default:
      return MatchAs<uint64_t>(p, begin, end, out, out_stride);
  }
}

}  // namespace

BucketMatchKernels MakeBucketMatchKernels() { return {Match}; }

}  // namespace sparse_attention::cpu::SA_ISA
