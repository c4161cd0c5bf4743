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

// The bracket [low, high] as scores: -0 and 0, and -infinity and the lowest number, are one.
struct Bracket {
  F32 low, high;
  uint64_t any_above;  // all bits, 0 where nothing is above infinity, also not NaN
};
SA_INLINE Bracket BracketOf(const TopKState& s) {
  const float low = s.low <= kLeastOrder ? -__builtin_inff() : ScoreOf(s.low);
  const float high = ScoreOf(s.high);
  return {Set(low), Set(high), s.high >= kMostOrder ? 0 : ~uint64_t{0}};
}

// 64 scores. Bits of those above and inside; with kStore those inside are appended to `values`.
template <bool kStore, typename T>
SA_INLINE void FeedWord(const T* scores, const Bracket& bracket, uint64_t eligible, TopKState* s,
                        uint64_t* above, uint64_t* inside) {
  uint64_t greater = 0, reached = 0;
  F32 x[64 / kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < 64 / kLanes; ++i) {
    x[i] = LoadScores(scores + i * kLanes);
    // Comparisons that NaN passes.
#if defined(SA_AVX512)
    const uint64_t not_below = _mm512_cmp_ps_mask(
        reinterpret_cast<__m512>(x[i]), reinterpret_cast<__m512>(bracket.low), _CMP_NLT_UQ);
    const uint64_t not_within = _mm512_cmp_ps_mask(
        reinterpret_cast<__m512>(x[i]), reinterpret_cast<__m512>(bracket.high), _CMP_NLE_UQ);
#else
    const uint64_t not_below = LaneBits(~(x[i] < bracket.low));
    const uint64_t not_within = LaneBits(~(x[i] <= bracket.high));
#endif
    reached |= not_below << (i * kLanes);
    greater |= not_within << (i * kLanes);
  }
  const uint64_t word_above = greater & bracket.any_above & eligible;
  const uint64_t word_inside = reached & ~word_above & eligible;
  *above = word_above;
  *inside = word_inside;
  s->above_count += CountBits(word_above);
  if (!kStore) {
    s->inside_count += CountBits(word_inside);
    return;
  }
  int64_t count = s->inside_count;
#if defined(SA_AVX512)
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __mmask16 bits = static_cast<__mmask16>(word_inside >> (i * 16));
    _mm512_storeu_ps(s->values + count,
                     _mm512_maskz_compress_ps(bits, reinterpret_cast<__m512>(x[i])));
    count += CountBits(bits);
  }
#else
  for (uint64_t left = word_inside; left != 0; left &= left - 1) {
    s->values[count++] = static_cast<float>(scores[LowestBit(left)]);
  }
#endif
  s->inside_count = count;
}

template <bool kStore, typename T>
SA_INLINE void FeedCapture(TopKState* state, int64_t begin, const T* scores, int64_t count,
                           const uint64_t* excluded) {
  const Bracket bracket = BracketOf(*state);
  // A copy, which the compiler keeps in registers.
  TopKState s = *state;
  const int64_t shared = (begin & 63) != 0 ? begin >> 6 : -1;  // may hold bits of the block before
  ForWords(begin, scores, count, excluded, [&](int64_t w, const T* x, uint64_t eligible) SA_LAMBDA {
    uint64_t above, inside;
    FeedWord<kStore>(x, bracket, eligible, &s, &above, &inside);
    if (w == shared) {
      s.above[w] |= above;
      s.inside[w] |= inside;
    } else {
      s.above[w] = above;
      s.inside[w] = inside;
    }
    return !kStore || s.inside_count <= s.capacity;
  });
  state->above_count = s.above_count;
  state->inside_count = s.inside_count;
  state->overflow = kStore && s.inside_count > s.capacity;
}

template <typename T>
SA_INLINE void FeedAll(TopKState* s, int64_t begin, const T* scores, int64_t count,
                       const uint64_t* excluded) {
  const int64_t shared = (begin & 63) != 0 ? begin >> 6 : -1;
  ForWords(begin, scores, count, excluded, [&](int64_t w, const T*, uint64_t eligible) SA_LAMBDA {
    s->above[w] = (w == shared ? s->above[w] : 0) | eligible;
    s->above_count += CountBits(eligible);
    return true;
  });
}

template <typename T>
SA_INLINE void FeedHistogram(TopKState* s, int64_t begin, const T* scores, int64_t count,
                             const uint64_t* excluded) {
  ForWords(begin, scores, count, excluded, [&](int64_t, const T* x, uint64_t eligible) SA_LAMBDA {
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
    for (int64_t i = 0; i < kMaxSample; ++i) {
      const int64_t j = SamplePlace(i, kMaxSample, n);
      sample[count] = static_cast<float>(scores[j]);
      count += !Excluded(excluded, j);
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
