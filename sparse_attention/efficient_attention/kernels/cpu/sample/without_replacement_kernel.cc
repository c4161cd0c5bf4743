#include "sparse_attention/efficient_attention/kernels/cpu/sample/without_replacement.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kWordsPerStep = 4 * kLanes;

// The low and the high half of the products of all lanes with one factor.
struct Product {
  U32 low, high;
};
SA_INLINE Product Multiply(U32 a, uint32_t factor) {
#if defined(SA_AVX512)
  const __m512i x = reinterpret_cast<__m512i>(a);
  const __m512i f = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(x, f);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), f);
  return {reinterpret_cast<U32>(_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32))),
          reinterpret_cast<U32>(_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd))};
#elif defined(SA_AVX2)
  const __m256i x = reinterpret_cast<__m256i>(a);
  const __m256i f = _mm256_set1_epi32(static_cast<int>(factor));
  const __m256i even = _mm256_mul_epu32(x, f);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), f);
  return {reinterpret_cast<U32>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA)),
          reinterpret_cast<U32>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA))};
#elif defined(SA_NEON)
  const uint32x4_t x = reinterpret_cast<uint32x4_t>(a);
  const uint32x4_t first = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(x), factor));
  const uint32x4_t second = vreinterpretq_u32_u64(vmull_high_n_u32(x, factor));
  return {reinterpret_cast<U32>(vuzp1q_u32(first, second)),
          reinterpret_cast<U32>(vuzp2q_u32(first, second))};
#else
  Product product;
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t wide = uint64_t{a[i]} * factor;
    product.low[i] = static_cast<uint32_t>(wide);
    product.high[i] = static_cast<uint32_t>(wide >> 32);
  }
  return product;
#endif
}

// Blocks block, ..., block + kLanes - 1 of the stream, lane i being block + i (Salmon, Moraes, Dror
// and Shaw 2011). Word j of block i is word 4 i + j of the stream.
SA_INLINE void Blocks(const PhiloxStart& start, uint32_t block, U32 (&words)[4]) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  U32 lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<uint32_t>(i);
  U32 c0 = SetU32(start.counter[0]), c1 = SetU32(start.counter[1]);
  U32 c2 = SetU32(start.counter[2]), c3 = lanes + block;
  uint32_t key0 = start.key[0], key1 = start.key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Product p0 = Multiply(c0, kMultiplier0), p1 = Multiply(c2, kMultiplier1);
    c0 = p1.high ^ c1 ^ key0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ key1;
    c3 = p0.low;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

void Words(const PhiloxStart& start, int64_t count, uint32_t* out) {
  uint32_t block = 0;
  for (int64_t at = 0; at < count; at += kWordsPerStep, block += kLanes) {
    U32 words[4];
    Blocks(start, block, words);
    for (int i = 0; i < kWordsPerStep && at + i < count; ++i) out[at + i] = words[i % 4][i / 4];
  }
}

// Sets the first `count` distinct values below `population` of the stream in ranks, which is 0.
SA_INLINE void DrawDistinct(const PhiloxStart& start, uint32_t population, int64_t count,
                            uint64_t* ranks) {
  // Words whose product falls below this in its low half would favour small values: skipped, as
  // Below does.
  const uint32_t threshold = population == 0 ? 0 : -population % population;
  uint32_t block = 0;
  for (int64_t missing = count; missing > 0; block += kLanes) {
    U32 words[4];
    Blocks(start, block, words);
    // Until the last steps all words of a step are drawn, so their order does not matter.
    const bool ordered = missing < kWordsPerStep;
    uint32_t drawn[kWordsPerStep];
    if (ordered) {
      for (int i = 0; i < kWordsPerStep; ++i) drawn[i] = words[i % 4][i / 4];
    } else {
      std::memcpy(drawn, words, sizeof(drawn));
    }
    for (int i = 0; i < kWordsPerStep; ++i) {
      const uint64_t product = uint64_t{drawn[i]} * population;
      if (static_cast<uint32_t>(product) < threshold) continue;
      const uint32_t rank = static_cast<uint32_t>(product >> 32);
      uint64_t* const word = ranks + (rank >> 6);
      const uint64_t before = *word, after = before | uint64_t{1} << (rank & 63);
      *word = after;
      missing -= before != after;
      if (ordered && missing == 0) return;
    }
  }
}

void SampleRanks(const PhiloxStart& start, int64_t population, int64_t count, uint64_t* ranks) {
  const int64_t num_words = WordsFor(population);
  std::memset(ranks, 0, sizeof(uint64_t) * static_cast<size_t>(SampleScratchWords(population)));
  const bool draw_rest = count > population / 2;
  DrawDistinct(start, static_cast<uint32_t>(population), draw_rest ? population - count : count,
               ranks);
  if (!draw_rest || num_words == 0) return;
  for (int64_t w = 0; w < num_words; ++w) ranks[w] = ~ranks[w];
  ranks[num_words - 1] &= LowMask(static_cast<int>(population - 64 * (num_words - 1)));
}

void SampleKeys(const PhiloxStart& start, int64_t population, int64_t count,
                const uint64_t* eligible, int64_t num_words, uint64_t* scratch,
                uint64_t* selected) {
  SampleRanks(start, population, count, scratch);
  DepositWords(scratch, eligible, num_words, selected);
}

}  // namespace

SampleKernels MakeSampleKernels() { return {Words, SampleRanks, SampleKeys}; }

}  // namespace sparse_attention::cpu::SA_ISA
