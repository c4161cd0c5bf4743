#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/blocks_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/levels.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kMaxPlanes = 4;
constexpr int64_t kMaxSample = 1024;  // that Select draws
constexpr double kDeviations = 3.5;   // as in top_k_kernel.cc

// 64 scores and the questions that the pass asks of them, a bit a score.
#if defined(SA_AVX512)
struct Scores {
  __m512i x;
};
SA_INLINE Scores LoadScores(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
SA_INLINE Scores Minus(Scores a, uint8_t b) {
  return {_mm512_sub_epi8(a.x, _mm512_set1_epi8(static_cast<char>(b)))};
}
SA_INLINE uint64_t Exceeding(Scores a, uint8_t b) {
  return _mm512_cmpgt_epu8_mask(a.x, _mm512_set1_epi8(static_cast<char>(b)));
}
template <int kBit>
SA_INLINE uint64_t Plane(Scores a) {
  return _mm512_test_epi8_mask(a.x, _mm512_set1_epi8(1 << kBit));
}
#elif defined(SA_AVX2)
struct Scores {
  __m256i x[2];
};
SA_INLINE Scores LoadScores(const uint8_t* p) {
  const __m256i* const half = reinterpret_cast<const __m256i*>(p);
  return {{_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1)}};
}
SA_INLINE uint64_t SignBits(__m256i first, __m256i second) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(first)) |
         uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(second))} << 32;
}
SA_INLINE Scores Minus(Scores a, uint8_t b) {
  const __m256i y = _mm256_set1_epi8(static_cast<char>(b));
  return {{_mm256_sub_epi8(a.x[0], y), _mm256_sub_epi8(a.x[1], y)}};
}
SA_INLINE uint64_t Exceeding(Scores a, uint8_t b) {
  const __m256i y = _mm256_set1_epi8(static_cast<char>(b)), zero = _mm256_setzero_si256();
  return ~SignBits(_mm256_cmpeq_epi8(_mm256_subs_epu8(a.x[0], y), zero),
                   _mm256_cmpeq_epi8(_mm256_subs_epu8(a.x[1], y), zero));
}
template <int kBit>
SA_INLINE uint64_t Plane(Scores a) {
  // What comes over from the byte below never reaches the highest bit.
  return SignBits(_mm256_slli_epi16(a.x[0], 7 - kBit), _mm256_slli_epi16(a.x[1], 7 - kBit));
}
#elif defined(SA_NEON)
struct Scores {
  uint8x16_t x[4];
};
SA_INLINE Scores LoadScores(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
SA_INLINE Scores Minus(Scores a, uint8_t b) {
  for (uint8x16_t& x : a.x) x = vsubq_u8(x, vdupq_n_u8(b));
  return a;
}
SA_INLINE uint64_t Exceeding(Scores a, uint8_t b) {
  for (uint8x16_t& x : a.x) x = vcgtq_u8(x, vdupq_n_u8(b));
  return LaneBits64<1>(a.x);
}
template <int kBit>
SA_INLINE uint64_t Plane(Scores a) {
  for (uint8x16_t& x : a.x) x = vtstq_u8(x, vdupq_n_u8(1 << kBit));
  return LaneBits64<1>(a.x);
}
#else
typedef uint8_t U8x16 __attribute__((vector_size(16)));
typedef uint64_t U64x2 __attribute__((vector_size(16)));
struct Scores {
  U8x16 x[4];
};
SA_INLINE Scores LoadScores(const uint8_t* p) {
  Scores a;
  std::memcpy(&a, p, sizeof(a));
  return a;
}
// The lowest bits of 16 bytes that are 0 or 1: a product gathers those of eight in its highest
// byte.
SA_INLINE uint64_t LowestBits(U8x16 x) {
#if defined(__x86_64__)
  const __m128i highest = _mm_slli_epi16(reinterpret_cast<__m128i>(x), 7);
  return static_cast<uint32_t>(_mm_movemask_epi8(highest));
#else
  const U64x2 gathered = (reinterpret_cast<U64x2>(x) * 0x0102040810204080u) >> 56;
  return gathered[0] | gathered[1] << 8;
#endif
}
SA_INLINE uint64_t LowestBits(const U8x16 (&x)[4]) {
  return LowestBits(x[0]) | LowestBits(x[1]) << 16 | LowestBits(x[2]) << 32 |
         LowestBits(x[3]) << 48;
}
SA_INLINE Scores Minus(Scores a, uint8_t b) {
  for (U8x16& x : a.x) x -= b;
  return a;
}
SA_INLINE uint64_t Exceeding(Scores a, uint8_t b) {
  for (U8x16& x : a.x) x = reinterpret_cast<U8x16>(x > b) & 1;
  return LowestBits(a.x);
}
template <int kBit>
SA_INLINE uint64_t Plane(Scores a) {
  for (U8x16& x : a.x) x = (x >> kBit) & 1;
  return LowestBits(a.x);
}
#endif

template <int kPlanes>
SA_INLINE void FeedWindow(const LevelState& s, int64_t begin, const uint8_t* scores, int64_t count,
                          const uint64_t* excluded) {
  const int64_t shared = (begin & 63) != 0 ? begin >> 6 : -1;  // may hold bits of the block before
  uint64_t* const above = s.above;
  uint64_t* const inside = s.inside;
  uint64_t* const planes = s.planes;
  const int64_t max_words = s.max_words;
  const uint8_t low = static_cast<uint8_t>(s.low), span = static_cast<uint8_t>(s.high - s.low);
  const uint8_t high = static_cast<uint8_t>(s.high);
  ForWords(begin, scores, count, excluded,
           [&](int64_t w, const uint8_t* p, uint64_t eligible, auto kind) SA_LAMBDA {
             const Scores x = LoadScores(p);
             const Scores level = Minus(x, low);  // below the window it wraps beyond the span
             const bool shares = !decltype(kind)::kWhole && w == shared;
             const auto put = [&](uint64_t bits, uint64_t* word)
                                  SA_LAMBDA { *word = (shares ? *word : 0) | (bits & eligible); };
             put(Exceeding(x, high), above + w);
             put(~Exceeding(level, span), inside + w);
             if (kPlanes > 0) put(Plane<0>(level), planes + w);
             if (kPlanes > 1) put(Plane<1>(level), planes + max_words + w);
             if (kPlanes > 2) put(Plane<2>(level), planes + 2 * max_words + w);
             if (kPlanes > 3) put(Plane<3>(level), planes + 3 * max_words + w);
             return true;
           });
}

// Four tables, since a level that follows itself would wait for its own count.
SA_INLINE void CountLevels(LevelState* s, int64_t begin, const uint8_t* scores, int64_t count,
                           const uint64_t* excluded) {
  ForWords(begin, scores, count, excluded,
           [&](int64_t, const uint8_t* x, uint64_t eligible, auto) SA_LAMBDA {
             if (eligible == ~uint64_t{0}) {
               for (int i = 0; i < 64; ++i) ++s->bins[(i & 3) * 256 + x[i]];
             } else {
               for (; eligible != 0; eligible &= eligible - 1) ++s->bins[x[LowestBit(eligible)]];
             }
             return true;
           });
}

void Feed(LevelState* s, int64_t begin, const uint8_t* scores, int64_t count,
          const uint64_t* excluded) {
  if (count <= 0 || s->pass == LevelPass::kNone) return;
  if (s->pass == LevelPass::kHistogram) {
    CountLevels(s, begin, scores, count, excluded);
    return;
  }
  // What was skipped, and the word that the block begins inside of.
  for (const int64_t whole = WordsFor(begin); s->words < whole; ++s->words) {
    s->above[s->words] = s->inside[s->words] = 0;
    for (int p = 0; p < s->num_planes; ++p) s->planes[p * s->max_words + s->words] = 0;
  }
  s->words = WordsFor(begin + count);
  switch (s->num_planes) {
    case 0:
      return FeedWindow<0>(*s, begin, scores, count, excluded);
    case 1:
      return FeedWindow<1>(*s, begin, scores, count, excluded);
    case 2:
      return FeedWindow<2>(*s, begin, scores, count, excluded);
    case 3:
      return FeedWindow<3>(*s, begin, scores, count, excluded);
    default:
      return FeedWindow<4>(*s, begin, scores, count, excluded);
  }
}

void StartHistogram(LevelState* s) {
  s->pass = LevelPass::kHistogram;
  std::memset(s->bins, 0, sizeof(uint32_t) * 4 * 256);
}
void StartWindow(LevelState* s, int32_t low, int32_t high) {
  s->pass = LevelPass::kWindow;
  s->low = low;
  s->high = high;
  s->num_planes = 0;
  while ((high - low) >> s->num_planes != 0) ++s->num_planes;
  s->words = 0;
}

// The level of the entry with `rank` - 1 entries before it, from the highest level; 0 where there
// are fewer.
SA_INLINE int32_t LevelOfRank(const uint32_t* bins, int64_t rank) {
  int32_t level = 255;
  for (; level > 0; --level) {
    rank -= bins[level];
    if (rank <= 0) break;
  }
  return level;
}

void Begin(LevelState* s, int64_t k, int64_t entries, const uint8_t* sample, int64_t sample_count) {
  s->k = k;
  s->words = 0;
  if (k <= 0) {
    s->pass = LevelPass::kNone;
    return;
  }
  // Every entry passes a window of the lowest level; Finish sees whether there were too many.
  if (entries <= k) return StartWindow(s, 0, 0);
  if (sample_count == 0) return StartHistogram(s);
  std::memset(s->bins, 0, sizeof(uint32_t) * 256);
  for (int64_t i = 0; i < sample_count; ++i) ++s->bins[sample[i]];
  const double share = static_cast<double>(k) / static_cast<double>(entries);
  const double mean = share * static_cast<double>(sample_count);
  const double reach = kDeviations * __builtin_sqrt(mean * (1 - share));
  const int64_t high_rank = static_cast<int64_t>(mean - reach);
  int32_t low = LevelOfRank(s->bins, static_cast<int64_t>(mean + reach) + 2);
  int32_t high = mean - reach >= 1 ? LevelOfRank(s->bins, high_rank) : 255;
  if (high - low >= 1 << kMaxPlanes) {
    // As many levels as there are bits for, around the likeliest.
    const int32_t middle = LevelOfRank(s->bins, static_cast<int64_t>(mean) + 1);
    low = middle > low + 8 ? middle - 8 : low;
    high = low + 15 < 255 ? low + 15 : 255;
  }
  StartWindow(s, low, high);
}

// What is left of the window is taken apart by one plane after the other, the highest first: the
// entries with the bit set, if there are k of them and those above, or else the others.
bool FinishWindow(LevelState* s, uint64_t* selected) {
  uint64_t* const above = s->above;
  uint64_t* const inside = s->inside;
  const int64_t words = s->words;
  int64_t rank = s->k - CountWords(above, words);  // of the k-th highest, among those inside
  const int64_t inside_count = CountWords(inside, words);
  if (rank < 0 || (rank > inside_count && s->low > 0)) {
    StartHistogram(s);
    return false;
  }
  if (rank >= inside_count) {
    for (int64_t w = 0; w < words; ++w) selected[w] |= above[w] | inside[w];
    return true;
  }
  for (int p = s->num_planes - 1; p >= 0; --p) {
    const uint64_t* const plane = s->planes + p * s->max_words;
    const int64_t set = CountBoth(inside, plane, words);
    if (set >= rank) {
      for (int64_t w = 0; w < words; ++w) inside[w] &= plane[w];
    } else {
      rank -= set;
      for (int64_t w = 0; w < words; ++w) {
        above[w] |= inside[w] & plane[w];
        inside[w] &= ~plane[w];
      }
    }
  }
  int64_t w = 0;
  for (; w < words && rank > 0; ++w) {
    const int ties = CountBits(inside[w]);
    selected[w] |=
        above[w] | (rank < ties ? FirstBits(inside[w], static_cast<int>(rank)) : inside[w]);
    rank -= ties;
  }
  for (; w < words; ++w) selected[w] |= above[w];
  return true;
}

bool Finish(LevelState* s, uint64_t* selected) {
  if (s->pass == LevelPass::kNone) return true;
  if (s->pass == LevelPass::kWindow) return FinishWindow(s, selected);
  for (int i = 0; i < 256; ++i)
    s->bins[i] += s->bins[256 + i] + s->bins[512 + i] + s->bins[768 + i];
  const int32_t level = LevelOfRank(s->bins, s->k);
  StartWindow(s, level, level);
  return false;
}

void Select(LevelState* s, const uint8_t* scores, int64_t n, int64_t k, const uint64_t* excluded,
            uint64_t* selected) {
  const int64_t entries = n - CountExcluded(excluded, n);
  uint8_t sample[kMaxSample];
  int64_t count = 0;
  if (0 < k && k < entries && entries > 4 * kMaxSample) {
    for (int64_t i = 0; i < kMaxSample; ++i) {
      const int64_t j = SamplePlace(i, kMaxSample, n);
      sample[count] = scores[j];
      count += !Excluded(excluded, j);
    }
  }
  Begin(s, k, entries, sample, count);
  do {
    Feed(s, 0, scores, n, excluded);
  } while (!Finish(s, selected));
}

}  // namespace

LevelKernels MakeLevelKernels() { return {Begin, Feed, Finish, Select}; }

}  // namespace sparse_attention::cpu::SA_ISA
