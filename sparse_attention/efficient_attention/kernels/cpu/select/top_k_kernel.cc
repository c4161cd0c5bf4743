#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/blocks_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/order_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kBinBits = 11;
constexpr int64_t kMaxSample = 1024;  // that Select draws

// How far the bracket reaches on both sides of where the sample puts the k-th score. Beyond 3.5 lie
// 5 rows in 10,000; wider costs more in every row than it saves there.
constexpr double kDeviations = 3.5;

SA_INLINE F32 LoadScores(const float* p) { return Load(p); }
SA_INLINE F32 LoadScores(const uint16_t* p) {
#if defined(SA_AVX512)
  return reinterpret_cast<F32>(_mm512_cvtepi32_ps(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))));
#else
  U16Half short_scores;
  std::memcpy(&short_scores, p, sizeof(short_scores));
  return __builtin_convertvector(__builtin_convertvector(short_scores, I32), F32);
#endif
}

// The bracket [low, high] as scores. -infinity is the lowest number, as a lower end that all reach.
struct Bracket {
  F32 low, high;
};
SA_INLINE Bracket BracketOf(const TopKState& s) {
  const float low = s.low <= kLeastOrder ? -__builtin_inff() : ScoreOf(s.low);
  return {Set(low), Set(ScoreOf(s.high))};
}

// 64 scores. The bits of those above and inside; with kStore those inside are put at values[count].
// Returns count and how many lie inside. kAllTakePart: `eligible` is not looked at.
template <bool kStore, bool kAllTakePart, typename T>
SA_INLINE int64_t FeedWord(const T* scores, const Bracket& bracket, uint64_t eligible,
                           float* values, int64_t count, uint64_t* above, uint64_t* inside) {
  const F32 infinity = Set(__builtin_inff());
#if defined(SA_AVX512)
  // Rows of short scores arrive slower than they are widened.
  if (kAllTakePart && sizeof(T) == 2) {
    PrefetchL1(scores + 1024);
    PrefetchL1(scores + 1024 + 32);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __mmask16 part = kAllTakePart ? 0xFFFF : static_cast<__mmask16>(eligible >> (i * 16));
    // Of NaN and infinity the minimum is its second operand.
    const __m512 x = _mm512_min_ps(reinterpret_cast<__m512>(LoadScores(scores + i * 16)),
                                   reinterpret_cast<__m512>(infinity));
    const __mmask16 greater =
        _mm512_mask_cmp_ps_mask(part, x, reinterpret_cast<__m512>(bracket.high), _CMP_GT_OQ);
    const __mmask16 reached =
        _mm512_mask_cmp_ps_mask(part, x, reinterpret_cast<__m512>(bracket.low), _CMP_GE_OQ);
    const __mmask16 within = _kandn_mask16(greater, reached);
    std::memcpy(reinterpret_cast<char*>(above) + i * 2, &greater, 2);
    std::memcpy(reinterpret_cast<char*>(inside) + i * 2, &within, 2);
    const int in_part = CountBits(within);
    if (kStore) {
      // Half a vector is nearly always enough, and much cheaper to store where it may.
      const __m512 kept = _mm512_maskz_compress_ps(within, x);
      _mm256_storeu_ps(values + count, _mm512_castps512_ps256(kept));
      if (__builtin_expect(in_part > 8, 0)) {
        _mm256_storeu_ps(values + count + 8, _mm512_extractf32x8_ps(kept, 1));
      }
    }
    count += in_part;
  }
#else
#if defined(SA_NEON)
  uint8x16_t lanes[2][16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    F32 x = LoadScores(scores + i * kLanes);
    x = x < infinity ? x : infinity;
    lanes[0][i] = reinterpret_cast<uint8x16_t>(x > bracket.high);
    lanes[1][i] = reinterpret_cast<uint8x16_t>(x >= bracket.low);
  }
  uint64_t greater = LaneBits64<4>(lanes[0]), reached = LaneBits64<4>(lanes[1]);
#else
  uint64_t greater = 0, reached = 0;
#pragma GCC unroll 16
  for (int i = 0; i < 64; i += kLanes) {
    F32 x = LoadScores(scores + i);
    x = x < infinity ? x : infinity;
    greater |= static_cast<uint64_t>(LaneBits(x > bracket.high)) << i;
    reached |= static_cast<uint64_t>(LaneBits(x >= bracket.low)) << i;
  }
#endif
  if (!kAllTakePart) {
    greater &= eligible;
    reached &= eligible;
  }
  const uint64_t within = reached & ~greater;
  *above = greater;
  *inside = within;
  if (kStore) {
    for (uint64_t left = within; left != 0; left &= left - 1) {
      values[count++] = static_cast<float>(scores[LowestBit(left)]);
    }
  } else {
    count += CountBits(within);
  }
#endif
  return count;
}

template <bool kStore, typename T>
SA_INLINE void FeedCapture(TopKState* s, int64_t begin, const T* scores, int64_t count,
                           const uint64_t* excluded) {
  const Bracket bracket = BracketOf(*s);
  const int64_t shared = (begin & 63) != 0 ? begin >> 6 : -1;  // may hold bits of the block before
  uint64_t* const above = s->above;
  uint64_t* const inside = s->inside;
  float* const values = s->values;
  const int64_t capacity = s->capacity;
  int64_t inside_count = s->inside_count;
  ForWords(begin, scores, count, excluded,
           [&](int64_t w, const T* x, uint64_t eligible, auto kind) SA_LAMBDA {
             constexpr bool kWhole = decltype(kind)::kWhole;
             const bool keep = !kWhole && w == shared;
             const uint64_t above_before = keep ? above[w] : 0,
                            inside_before = keep ? inside[w] : 0;
             inside_count = FeedWord<kStore, kWhole>(x, bracket, eligible, values, inside_count,
                                                     above + w, inside + w);
             if (keep) {
               above[w] |= above_before;
               inside[w] |= inside_before;
             }
             return !kStore || inside_count <= capacity;
           });
  s->inside_count = inside_count;
  s->overflow = kStore && inside_count > capacity;
}

template <typename T>
SA_INLINE void FeedAll(TopKState* s, int64_t begin, const T* scores, int64_t count,
                       const uint64_t* excluded) {
  const int64_t shared = (begin & 63) != 0 ? begin >> 6 : -1;
  ForWords(begin, scores, count, excluded,
           [&](int64_t w, const T*, uint64_t eligible, auto) SA_LAMBDA {
             s->above[w] = (w == shared ? s->above[w] : 0) | eligible;
             return true;
           });
}

template <typename T>
SA_INLINE void FeedHistogram(TopKState* s, int64_t begin, const T* scores, int64_t count,
                             const uint64_t* excluded) {
  ForWords(
      begin, scores, count, excluded, [&](int64_t, const T* x, uint64_t eligible, auto) SA_LAMBDA {
        for (; eligible != 0; eligible &= eligible - 1) {
          const int32_t order = OrderOf(static_cast<float>(x[LowestBit(eligible)]));
          if (order > s->high) {
            ++s->above_count;
          } else if (order >= s->low) {
            ++s->bins[(static_cast<uint32_t>(order) - static_cast<uint32_t>(s->low)) >> s->shift];
          }
        }
        return true;
      });
}

template <typename T>
SA_INLINE void FeedScores(TopKState* s, int64_t begin, const T* scores, int64_t count,
                          const uint64_t* excluded) {
  if (count <= 0 || s->pass == TopKPass::kNone || s->overflow) return;
  if (s->pass == TopKPass::kHistogram) {
    FeedHistogram(s, begin, scores, count, excluded);
    return;
  }
  // What was skipped, and the word that the block begins inside of.
  const int64_t whole = WordsFor(begin);
  for (; s->words < whole; ++s->words) s->above[s->words] = s->inside[s->words] = 0;
  s->words = WordsFor(begin + count);
  switch (s->pass) {
    case TopKPass::kAll:
      FeedAll(s, begin, scores, count, excluded);
      break;
    case TopKPass::kTies:
      FeedCapture<false>(s, begin, scores, count, excluded);
      break;
    default:
      FeedCapture<true>(s, begin, scores, count, excluded);
  }
}

void Feed(TopKState* s, int64_t begin, const float* scores, int64_t count,
          const uint64_t* excluded) {
  FeedScores(s, begin, scores, count, excluded);
}
void FeedU16(TopKState* s, int64_t begin, const uint16_t* scores, int64_t count,
             const uint64_t* excluded) {
  FeedScores(s, begin, scores, count, excluded);
}

// The next pass, over [low, high].
void StartPass(TopKState* s, TopKPass pass, int32_t low, int32_t high) {
  s->pass = pass;
  s->low = low;
  s->high = high;
  s->overflow = false;
  s->words = 0;
  s->above_count = 0;
  s->inside_count = 0;
  if (pass != TopKPass::kHistogram) return;
  const uint32_t span = static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
  s->shift = 0;
  while (span >> s->shift >> kBinBits != 0) ++s->shift;
  std::memset(s->bins, 0, sizeof(uint32_t) << kBinBits);
}

void Begin(TopKState* s, int64_t k, int64_t entries, const float* sample, int64_t sample_count) {
  s->k = k;
  if (k <= 0) return StartPass(s, TopKPass::kNone, 0, 0);
  if (entries <= k) return StartPass(s, TopKPass::kAll, 0, 0);
  if (sample_count == 0) {
    const bool fits = entries <= s->capacity;
    return StartPass(s, fits ? TopKPass::kCapture : TopKPass::kHistogram, kLeastOrder, kMostOrder);
  }
  int32_t* const orders = reinterpret_cast<int32_t*>(s->values);
  const int64_t count = sample_count < s->capacity ? sample_count : s->capacity;
  const OrderRange range = OrdersOf(sample, count, orders);
  const double share = static_cast<double>(k) / static_cast<double>(entries);
  const double mean = share * static_cast<double>(count);
  const double reach = kDeviations * __builtin_sqrt(mean * (1 - share));
  const int64_t slack = count / 256;  // a rank need not be met exactly
  const int64_t low_rank = static_cast<int64_t>(mean + reach) + 2;
  const int64_t high_rank = static_cast<int64_t>(mean - reach);
  int32_t low = kLeastOrder, high = kMostOrder;
  if (low_rank <= count) low = FindCut(orders, count, range, low_rank, slack).order;
  if (mean - reach >= 1) {
    const int64_t rank = high_rank > slack ? high_rank - slack : 1;
    high = FindCut(orders, count, range, rank, high_rank - rank).order;
  }
  StartPass(s, low == high ? TopKPass::kTies : TopKPass::kCapture, low, high);
}

// The bits of `values`, whose orders are `orders`, that are the `rank` highest.
void ChooseValues(const int32_t* orders, int64_t count, const Cut& cut, int64_t rank,
                  uint64_t* chosen) {
  // All that reach the cut, or of those at the cut only the first.
  int64_t ties = cut.at_least == rank ? count : rank - cut.above;
  const I32 at = I32{} + cut.order;
  for (int64_t w = 0; w * 64 < count; ++w) {
    uint64_t above = 0, equal = 0;
    for (int i = 0; i < 64; i += kLanes) {
      const I32 x = LoadOrders(orders + w * 64 + i);
      above |= static_cast<uint64_t>(LaneBits(x > at)) << i;
      equal |= static_cast<uint64_t>(LaneBits(x == at)) << i;
    }
    const int equals = CountBits(equal);
    if (ties < equals) equal = FirstBits(equal, static_cast<int>(ties));
    ties -= ties < equals ? ties : equals;
    chosen[w] = above | equal;
  }
}

bool FinishCapture(TopKState* s, uint64_t* selected) {
  if (s->overflow) {
    StartPass(s, TopKPass::kHistogram, kLeastOrder, kMostOrder);
    return false;
  }
  const int64_t rank = s->k - s->above_count;  // of the k-th highest, among those inside
  if (rank <= 0) {
    if (rank == 0) {
      for (int64_t w = 0; w < s->words; ++w) selected[w] |= s->above[w];
      return true;
    }
    StartPass(s, TopKPass::kHistogram, s->high + 1, kMostOrder);
    return false;
  }
  if (rank > s->inside_count && s->low > kLeastOrder) {
    StartPass(s, TopKPass::kHistogram, kLeastOrder, s->low - 1);
    return false;
  }
  if (rank >= s->inside_count) {
    for (int64_t w = 0; w < s->words; ++w) selected[w] |= s->above[w] | s->inside[w];
    return true;
  }
  if (s->pass == TopKPass::kTies) {
    int64_t left = rank;
    for (int64_t w = 0; w < s->words; ++w) {
      const int ties = CountBits(s->inside[w]);
      const int taken = left < ties ? static_cast<int>(left) : ties;
      selected[w] |= s->above[w] | FirstBits(s->inside[w], taken);
      left -= taken;
    }
    return true;
  }
  int32_t* const orders = reinterpret_cast<int32_t*>(s->values);
  const OrderRange range = OrdersOf(s->values, s->inside_count, orders);
  const Cut cut = FindCut(orders, s->inside_count, range, rank, 0);
  ChooseValues(orders, s->inside_count, cut, rank, s->chosen);
  for (int64_t w = 0; w < s->words; ++w) selected[w] |= s->above[w];
  DepositWords(s->chosen, s->inside, s->words, selected);
  return true;
}

// The bin that holds the k-th highest is the next bracket, in which it lies for certain.
bool FinishHistogram(TopKState* s) {
  int64_t rank = s->k - s->above_count;
  const uint32_t span = static_cast<uint32_t>(s->high) - static_cast<uint32_t>(s->low);
  int64_t bin = static_cast<int64_t>(span >> s->shift);
  while (bin >= 0 && rank > static_cast<int64_t>(s->bins[bin])) rank -= s->bins[bin--];
  if (bin < 0) {  // fewer than k entries were fed
    StartPass(s, TopKPass::kAll, 0, 0);
    return false;
  }
  const int64_t low = s->low + (bin << s->shift);
  const int64_t last = low + (int64_t{1} << s->shift) - 1;
  const int32_t high = last < s->high ? static_cast<int32_t>(last) : s->high;
  const bool single = low == high, fits = static_cast<int64_t>(s->bins[bin]) <= s->capacity;
  StartPass(s,
            single ? TopKPass::kTies
            : fits ? TopKPass::kCapture
                   : TopKPass::kHistogram,
            static_cast<int32_t>(low), high);
  return false;
}

bool Finish(TopKState* s, uint64_t* selected) {
  if (s->pass != TopKPass::kHistogram) s->above_count = CountWords(s->above, s->words);
  switch (s->pass) {
    case TopKPass::kNone:
      return true;
    case TopKPass::kAll:
      if (s->above_count > s->k) {
        StartPass(s, TopKPass::kHistogram, kLeastOrder, kMostOrder);
        return false;
      }
      for (int64_t w = 0; w < s->words; ++w) selected[w] |= s->above[w];
      return true;
    case TopKPass::kHistogram:
      return FinishHistogram(s);
    default:
      return FinishCapture(s, selected);
  }
}

template <typename T>
SA_INLINE void SelectRow(TopKState* s, const T* scores, int64_t n, int64_t k,
                         const uint64_t* excluded, uint64_t* selected) {
  const int64_t entries = n - CountExcluded(excluded, n);
  float sample[kMaxSample];
  int64_t count = 0;
  if (0 < k && k < entries && entries > 4 * kMaxSample) {
    // Two of a line each, since what a sample costs is its lines.
    for (int64_t i = 0; i < kMaxSample / 2; ++i) {
      const int64_t j = SamplePlace(i, kMaxSample / 2, n);
      const int64_t beside = (j ^ 8) < n ? j ^ 8 : j;
      sample[count] = static_cast<float>(scores[j]);
      count += !Excluded(excluded, j);
      sample[count] = static_cast<float>(scores[beside]);
      count += !Excluded(excluded, beside);
    }
  }
  Begin(s, k, entries, sample, count);
  do {
    FeedScores(s, 0, scores, n, excluded);
  } while (!Finish(s, selected));
}

void Select(TopKState* s, const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
            uint64_t* selected) {
  SelectRow(s, scores, n, k, excluded, selected);
}
void SelectU16(TopKState* s, const uint16_t* scores, int64_t n, int64_t k, const uint64_t* excluded,
               uint64_t* selected) {
  SelectRow(s, scores, n, k, excluded, selected);
}

}  // namespace

TopKKernels MakeTopKKernels() { return {Begin, Feed, FeedU16, Finish, Select, SelectU16}; }

}  // namespace sparse_attention::cpu::SA_ISA
