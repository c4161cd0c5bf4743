#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bit_agreement.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kVectors = 4;
constexpr int kChunkKeys = kVectors * kLanes;
constexpr int kMostWords = kMaxSignatureBits / 32;
constexpr int64_t kPrefetchKeys = 2048;  // 8 KB ahead

SA_INLINE U32 LoadWords(const uint32_t* p) {
  U32 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

// The number of ones in each lane.
SA_INLINE U32 CountOnes(U32 x) {
#if defined(SA_AVX512_BF16)
  return reinterpret_cast<U32>(_mm512_popcnt_epi32(reinterpret_cast<__m512i>(x)));
#elif defined(SA_AVX512)
  const __m512i v = reinterpret_cast<__m512i>(x), low = _mm512_set1_epi8(0x0F);
  const __m512i ones_of_nibble =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i ones = _mm512_add_epi8(
      _mm512_shuffle_epi8(ones_of_nibble, _mm512_and_si512(v, low)),
      _mm512_shuffle_epi8(ones_of_nibble, _mm512_and_si512(_mm512_srli_epi16(v, 4), low)));
  return reinterpret_cast<U32>(
      _mm512_madd_epi16(_mm512_maddubs_epi16(ones, _mm512_set1_epi8(1)), _mm512_set1_epi16(1)));
#elif defined(SA_AVX2)
  const __m256i v = reinterpret_cast<__m256i>(x), low = _mm256_set1_epi8(0x0F);
  const __m256i ones_of_nibble =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i ones = _mm256_add_epi8(
      _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(v, low)),
      _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
  return reinterpret_cast<U32>(
      _mm256_madd_epi16(_mm256_maddubs_epi16(ones, _mm256_set1_epi8(1)), _mm256_set1_epi16(1)));
#elif defined(SA_NEON)
  const uint8x16_t ones = vcntq_u8(reinterpret_cast<uint8x16_t>(x));
  return reinterpret_cast<U32>(vpaddlq_u16(vpaddlq_u8(ones)));
#else
  // Sums of ever larger fields.
  x = x - ((x >> 1) & 0x55555555);
  x = (x & 0x33333333) + ((x >> 2) & 0x33333333);
  x = (x + (x >> 4)) & 0x0F0F0F0F;
  x = x + (x >> 8);
  return (x + (x >> 16)) & 0xFF;
#endif
}

// (x ^ flip) & mask
SA_INLINE U32 XorAnd(U32 x, U32 flip, U32 mask) {
#if defined(SA_AVX512)
  return reinterpret_cast<U32>(_mm512_ternarylogic_epi32(reinterpret_cast<__m512i>(x),
                                                         reinterpret_cast<__m512i>(flip),
                                                         reinterpret_cast<__m512i>(mask), 0x28));
#else
  return (x ^ flip) & mask;
#endif
}

SA_INLINE U32 MaxCount(U32 a, U32 b) {
  return reinterpret_cast<I32>(a) > reinterpret_cast<I32>(b) ? a : b;
}

// A chunk of counts, each of which fits the type.
SA_INLINE void StoreCounts(const U32* x, uint8_t* out) {
#if defined(SA_AVX512)
  const __m512i ab =
      _mm512_packus_epi32(reinterpret_cast<__m512i>(x[0]), reinterpret_cast<__m512i>(x[1]));
  const __m512i cd =
      _mm512_packus_epi32(reinterpret_cast<__m512i>(x[2]), reinterpret_cast<__m512i>(x[3]));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd)));
#elif defined(SA_AVX2)
  const __m256i ab =
      _mm256_packus_epi32(reinterpret_cast<__m256i>(x[0]), reinterpret_cast<__m256i>(x[1]));
  const __m256i cd =
      _mm256_packus_epi32(reinterpret_cast<__m256i>(x[2]), reinterpret_cast<__m256i>(x[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), order));
#elif defined(SA_NEON)
  const auto halves = [&](int i) __attribute__((always_inline)) {
    return vuzp1q_u16(reinterpret_cast<uint16x8_t>(x[i]), reinterpret_cast<uint16x8_t>(x[i + 1]));
  };
  vst1q_u8(out, vuzp1q_u8(vreinterpretq_u8_u16(halves(0)), vreinterpretq_u8_u16(halves(2))));
#else
  typedef uint8_t U8Quarter __attribute__((vector_size(kLanes)));
  for (int v = 0; v < kVectors; ++v) {
    const U8Quarter bytes = __builtin_convertvector(x[v], U8Quarter);
    std::memcpy(out + v * kLanes, &bytes, sizeof(bytes));
  }
#endif
}
SA_INLINE void StoreCounts(const U32* x, uint16_t* out) {
  for (int v = 0; v < kVectors; ++v) {
    const U16Half half = __builtin_convertvector(x[v], U16Half);
    std::memcpy(out + v * kLanes, &half, sizeof(half));
  }
}

// What a call makes of the queries. Unused bits agree nowhere.
struct Queries {
  // For rows on their own: ~q, so that ones of (k ^ flip) & used are agreements.
  uint32_t flip[kMaxScoreRows][kMostWords];
  uint32_t used[kMostWords];
};

SA_INLINE uint32_t UsedBits(const BitAgreementProblem& p, int word) {
  const int bits = p.bits - 32 * word;
  return bits >= 32 ? ~0u : (1u << bits) - 1;
}

// For the sum over rows. Where n of the rows differ from the majority in a bit, a key that has the
// majority's bit agrees with rows - n of them, any other with n: the sum is that of n over all bits
// and of rows - 2 n over those where the key follows the majority. The weights rows - 2 n are taken
// binary digit by digit, so that 16 rows cost four counts of ones instead of 16.
struct Majority {
  uint32_t flip[kMostWords];      // ~majority
  uint32_t digit[4][kMostWords];  // digit[d]: the bits whose weight has digit first + d
  uint32_t base;                  // the sum of n
  int first, digits;              // even numbers of rows have even weights
};

SA_INLINE void FindMajority(const BitAgreementProblem& p, Majority& m) {
  const int words = SignatureWords(p.bits), rows = p.rows;
  m.first = rows % 2 == 0 ? 1 : 0;
  m.digits = 32 - __builtin_clz(static_cast<uint32_t>(rows)) - m.first;
  m.base = 0;
  for (int w = 0; w < words; ++w) {
    // Digits of the number of ones in each column.
    uint32_t ones[5] = {};
    for (int r = 0; r < rows; ++r) {
      uint32_t carry = p.queries[r * words + w];
      for (int d = 0; d < 5; ++d) {
        const uint32_t next = ones[d] & carry;
        ones[d] ^= carry;
        carry = next;
      }
    }
    // Where 2 * ones >= rows, by the borrow of 2 * ones - rows; then the minority's number:
    // rows - ones there, ones elsewhere.
    uint32_t borrow = 0, minority[6] = {};
    for (int d = 0; d < 6; ++d) {
      const uint32_t a = d == 0 ? 0 : ones[d - 1], b = (rows >> d & 1) != 0 ? ~0u : 0;
      borrow = (~a & (b | borrow)) | (b & borrow);
    }
    const uint32_t majority = ~borrow, used = UsedBits(p, w);
    borrow = 0;
    for (int d = 0; d < 5; ++d) {
      const uint32_t a = (rows >> d & 1) != 0 ? ~0u : 0, b = ones[d];
      minority[d] = (majority & (a ^ b ^ borrow)) | (~majority & b);
      borrow = (~a & (b | borrow)) | (b & borrow);
    }
    borrow = 0;
    for (int d = 0; d < 5; ++d) {  // rows - 2 * minority
      const uint32_t a = (rows >> d & 1) != 0 ? ~0u : 0, b = d == 0 ? 0 : minority[d - 1];
      const uint32_t weight = (a ^ b ^ borrow) & used;
      borrow = (~a & (b | borrow)) | (b & borrow);
      if (d >= m.first && d < m.first + m.digits) m.digit[d - m.first][w] = weight;
      m.base += static_cast<uint32_t>(__builtin_popcount(minority[d])) << d;
    }
    m.flip[w] = ~majority;
  }
}

// kWords: the number of words where it is known.
template <int kWords, int kDigits, typename Out>
SA_INLINE void SumChunk(const BitAgreementProblem& p, const Majority& m, const uint32_t* keys,
                        int64_t word_stride, Out* out) {
  const int words = kWords > 0 ? kWords : SignatureWords(p.bits);
  U32 sum[kVectors] = {};
  for (int w = 0; w < words; ++w) {
    const U32 flip = SetU32(m.flip[w]);
    U32 digit[kDigits];
    for (int d = 0; d < kDigits; ++d) digit[d] = SetU32(m.digit[d][w]);
    for (int v = 0; v < kVectors; ++v) {
      const U32 x = LoadWords(keys + w * word_stride + v * kLanes);
      U32 of_word = CountOnes(XorAnd(x, flip, digit[kDigits - 1]));
      for (int d = kDigits - 2; d >= 0; --d) {
        of_word = of_word + of_word + CountOnes(XorAnd(x, flip, digit[d]));
      }
      sum[v] += of_word;
    }
  }
  for (int v = 0; v < kVectors; ++v) sum[v] = (sum[v] << m.first) + m.base;
  StoreCounts(sum, out);
}

template <int kWords>
SA_INLINE void Agreement(const BitAgreementProblem& p, const Queries& q, int row,
                         const uint32_t* keys, int64_t word_stride, U32* count) {
  const int words = kWords > 0 ? kWords : SignatureWords(p.bits);
  for (int w = 0; w < words; ++w) {
    const U32 flip = SetU32(q.flip[row][w]), used = SetU32(q.used[w]);
    for (int v = 0; v < kVectors; ++v) {
      const U32 ones =
          CountOnes(XorAnd(LoadWords(keys + w * word_stride + v * kLanes), flip, used));
      count[v] = w == 0 ? ones : count[v] + ones;
    }
  }
}

// Calls chunk(keys, word_stride, out, out_stride) for chunks of [begin, end), the last through
// copies where it is a part.
template <typename Out, typename Chunk>
SA_INLINE void ForChunks(const BitAgreementProblem& p, int64_t begin, int64_t end, Out* out,
                         int64_t out_stride, int out_rows, const Chunk& chunk) {
  int64_t j = begin;
  for (; j + kChunkKeys <= end; j += kChunkKeys) {
    for (int b = 0; b < kChunkKeys * 4; b += 64) PrefetchL2(p.keys + j + kPrefetchKeys + b / 4);
    chunk(p.keys + j, p.word_stride, out + (j - begin), out_stride);
  }
  const int64_t rest = end - j;
  if (rest <= 0) return;
  uint32_t keys[kMostWords][kChunkKeys];
  Out scores[kMaxScoreRows][kChunkKeys];
  for (int w = 0; w < SignatureWords(p.bits); ++w) {
    for (int64_t i = 0; i < kChunkKeys; ++i) {
      keys[w][i] = i < rest ? p.keys[w * p.word_stride + j + i] : 0;
    }
  }
  chunk(keys[0], int64_t{kChunkKeys}, scores[0], int64_t{kChunkKeys});
  for (int r = 0; r < out_rows; ++r) {
    std::memcpy(out + r * out_stride + (j - begin), scores[r],
                sizeof(Out) * static_cast<size_t>(rest));
  }
}

template <int kWords, int kDigits, typename Out>
SA_INLINE void ScoreSum(const BitAgreementProblem& p, const Majority& m, int64_t begin, int64_t end,
                        Out* out) {
  ForChunks(
      p, begin, end, out, 0, 1,
      [&](const uint32_t* keys, int64_t word_stride, Out* scores, int64_t) __attribute__((
          always_inline)) { SumChunk<kWords, kDigits>(p, m, keys, word_stride, scores); });
}

template <int kWords, typename Out>
SA_INLINE void Score(const BitAgreementProblem& p, int64_t begin, int64_t end, Out* out,
                     int64_t out_stride) {
  if (p.reduce == RowReduce::kSum || p.reduce == RowReduce::kMean) {
    Majority m;
    FindMajority(p, m);
    switch (m.digits) {
      case 1:
        return ScoreSum<kWords, 1>(p, m, begin, end, out);
      case 2:
        return ScoreSum<kWords, 2>(p, m, begin, end, out);
      case 3:
        return ScoreSum<kWords, 3>(p, m, begin, end, out);
      default:
        return ScoreSum<kWords, 4>(p, m, begin, end, out);
    }
  }
  const int words = SignatureWords(p.bits);
  Queries q;
  for (int w = 0; w < words; ++w) q.used[w] = UsedBits(p, w);
  for (int r = 0; r < p.rows; ++r) {
    for (int w = 0; w < words; ++w) q.flip[r][w] = ~p.queries[r * words + w];
  }
  if (p.reduce == RowReduce::kMax) {
    ForChunks(
        p, begin, end, out, 0, 1,
        [&](const uint32_t* keys, int64_t word_stride, Out* scores, int64_t)
            __attribute__((always_inline)) {
              U32 most[kVectors];
              Agreement<kWords>(p, q, 0, keys, word_stride, most);
              for (int r = 1; r < p.rows; ++r) {
                U32 count[kVectors];
                Agreement<kWords>(p, q, r, keys, word_stride, count);
                for (int v = 0; v < kVectors; ++v) most[v] = MaxCount(most[v], count[v]);
              }
              StoreCounts(most, scores);
            });
    return;
  }
  ForChunks(
      p, begin, end, out, out_stride, p.rows,
      [&](const uint32_t* keys, int64_t word_stride, Out* scores, int64_t stride)
          __attribute__((always_inline)) {
            for (int r = 0; r < p.rows; ++r) {
              U32 count[kVectors];
              Agreement<kWords>(p, q, r, keys, word_stride, count);
              StoreCounts(count, scores + r * stride);
            }
          });
}

template <typename Out>
void ScoreAny(const BitAgreementProblem& p, int64_t begin, int64_t end, Out* out,
              int64_t out_stride) {
  if (p.bits <= 32) return Score<1>(p, begin, end, out, out_stride);
  Score<0>(p, begin, end, out, out_stride);
}

void Pack(const float* outputs, int64_t output_stride, int64_t count, int32_t bits, uint32_t* keys,
          int64_t word_stride, int64_t first) {
  for (int64_t j = 0; j < count; ++j) {
    for (int32_t bit = 0; bit < bits; bit += 32) {
      const float* const x = outputs + j * output_stride + bit;
      const int32_t width = bits - bit < 32 ? bits - bit : 32;
      uint32_t word = 0;
      for (int32_t i = 0; i < width; ++i) word |= uint32_t{x[i] > 0} << i;
      keys[bit / 32 * word_stride + first + j] = word;
    }
  }
}

}  // namespace

BitAgreementKernels MakeBitAgreementKernels() {
  return {ScoreAny<uint8_t>, ScoreAny<uint16_t>, Pack};
}

}  // namespace sparse_attention::cpu::SA_ISA
