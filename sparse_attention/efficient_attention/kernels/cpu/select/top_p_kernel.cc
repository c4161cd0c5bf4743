#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/blocks_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/order_inl.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int64_t kSample = 2048;
constexpr double kDeviations = 4;

// Sums of float64, lane by lane.
struct Sum {
#if defined(SA_AVX512)
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
#elif defined(SA_AVX2)
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
#elif defined(SA_NEON)
  float64x2_t low = vdupq_n_f64(0), high = vdupq_n_f64(0);
#else
  double lanes[kLanes] = {};
#endif
};
SA_INLINE void Add(F32 x, Sum* sum) {
#if defined(SA_AVX512)
  const __m512 y = reinterpret_cast<__m512>(x);
  sum->low = _mm512_add_pd(sum->low, _mm512_cvtps_pd(_mm512_castps512_ps256(y)));
  sum->high = _mm512_add_pd(sum->high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(y, 1)));
#elif defined(SA_AVX2)
  const __m256 y = reinterpret_cast<__m256>(x);
  sum->low = _mm256_add_pd(sum->low, _mm256_cvtps_pd(_mm256_castps256_ps128(y)));
  sum->high = _mm256_add_pd(sum->high, _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1)));
#elif defined(SA_NEON)
  const float32x4_t y = reinterpret_cast<float32x4_t>(x);
  sum->low = vaddq_f64(sum->low, vcvt_f64_f32(vget_low_f32(y)));
  sum->high = vaddq_f64(sum->high, vcvt_high_f64_f32(y));
#else
  for (int i = 0; i < kLanes; ++i) sum->lanes[i] += static_cast<double>(x[i]);
#endif
}
SA_INLINE double Total(const Sum& sum) {
#if defined(SA_AVX512)
  return _mm512_reduce_add_pd(_mm512_add_pd(sum.low, sum.high));
#elif defined(SA_AVX2)
  double lanes[4];
  _mm256_storeu_pd(lanes, _mm256_add_pd(sum.low, sum.high));
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
#elif defined(SA_NEON)
  return vaddvq_f64(vaddq_f64(sum.low, sum.high));
#else
  double total = 0;
  for (int i = 0; i < kLanes; ++i) total += sum.lanes[i];
  return total;
#endif
}

SA_INLINE F32 LoadUpTo(const float* p, int64_t left) {
  return left >= kLanes ? Load(p) : LoadFirst(p, static_cast<int>(left));
}

// The sum of the masses that are at least `bound` > 0.
SA_INLINE double SumFrom(const float* masses, int64_t n, float bound) {
  Sum sum;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 x = LoadUpTo(masses + i, n - i);
    Add(x >= bound ? x : F32{}, &sum);
  }
  return Total(sum);
}

struct Whole {
  double sum;
  float least, most;
};
SA_INLINE Whole WholeRow(const float* masses, int64_t n) {
  Sum sum;
  F32 least = Set(masses[0]), most = least;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32 x = Load(masses + i);
    Add(x, &sum);
    least = Min(least, x);
    most = Max(most, x);
  }
  if (i < n) {
    Add(LoadFirst(masses + i, static_cast<int>(n - i)), &sum);
    for (; i < n; ++i) {
      least = Min(least, Set(masses[i]));
      most = Max(most, Set(masses[i]));
    }
  }
  return {Total(sum), -MaxLanes(-least), MaxLanes(most)};
}

// Non-negative floats have the order of their bits.
SA_INLINE int32_t BitsOf(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7FFFFFFF;  // -0 is 0
}
SA_INLINE float MassOf(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

struct Target {
  double share, total;
  TopPRule rule;
};
// Whether the entries that weigh `sum` are enough. No entry is never enough: the heaviest is always
// selected.
SA_INLINE bool Enough(double sum, const Target& target) {
  const double share = sum / target.total;
  return sum > 0 &&
         (target.rule == TopPRule::kGreater ? share > target.share : share >= target.share);
}

// The highest bound in (low, high] from which on the masses and `beyond` are enough, or low where
// none above it is. The masses from low on are enough, those above high are not.
SA_INLINE int32_t HighestEnough(const float* masses, int64_t n, double beyond, int32_t low,
                                int32_t high, const Target& target) {
  while (low < high) {
    const int32_t middle = low + (high - low + 1) / 2;
    if (Enough(beyond + SumFrom(masses, n, MassOf(middle)), target)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Copies the masses in [low, high] to kept[capacity + kLanes] and sums those above. Returns how
// many are inside; more than `capacity`: it stopped.
SA_INLINE int64_t Capture(const float* masses, int64_t n, float low, float high, float* kept,
                          int64_t capacity, double* beyond) {
  Sum sum;
  int64_t count = 0;
  for (int64_t i = 0; i < n && count <= capacity; i += kLanes) {
    const F32 x = LoadUpTo(masses + i, n - i);
    const I32 above = x > high;
    Add(above ? x : F32{}, &sum);
    I32 within = (x >= low) & ~above;
    uint32_t bits = LaneBits(within);
    if (n - i < kLanes) bits &= (1u << (n - i)) - 1;
#if defined(SA_AVX512)
    _mm512_storeu_ps(kept + count, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits),
                                                            reinterpret_cast<__m512>(x)));
    count += CountBits(bits);
#else
    for (; bits != 0; bits &= bits - 1) kept[count++] = masses[i + LowestBit(bits)];
#endif
  }
  *beyond = Total(sum);
  return count;
}

struct Bits {
  int32_t low, high;
};
// Where the threshold is likely to lie, from a sample of the row: the masses at the share asked for
// minus and plus some standard deviations of the estimated share.
SA_INLINE Bits LikelyBits(const float* masses, int64_t n, const Target& target, Bits all,
                          float* sample) {
  for (int64_t i = 0; i < kSample; ++i) sample[i] = masses[SamplePlace(i, kSample, n)];
  const double total = SumFrom(sample, kSample, MassOf(1));
  if (!(total > 0)) return all;
  Target guess = {target.share, total, TopPRule::kGreater};
  const int32_t middle = HighestEnough(sample, kSample, 0, 0, all.high, guess);
  double variance = 0;
  for (int64_t i = 0; i < kSample; ++i) {
    const double weight = static_cast<double>(sample[i]) / total;
    const double residual = weight * ((sample[i] >= MassOf(middle) ? 1.0 : 0.0) - target.share);
    variance += residual * residual;
  }
  const double reach = kDeviations * __builtin_sqrt(variance);
  Bits likely = all;
  guess.share = target.share + reach;
  if (guess.share < 1) {
    likely.low = HighestEnough(sample, kSample, 0, 0, middle, guess);
    if (likely.low < all.low) likely.low = all.low;
  }
  guess.share = target.share - reach;
  if (guess.share > 0) likely.high = HighestEnough(sample, kSample, 0, middle, all.high, guess);
  return likely;
}

float Threshold(const float* masses, int64_t n, double share, TopPRule rule, float* scratch) {
  const Whole whole = WholeRow(masses, n);
  const Target target = {share, whole.sum, rule};
  // The definition divides the last running sum by itself.
  if (!(whole.sum > 0) || !Enough(whole.sum, target)) return whole.least;
  // The threshold is in [low, high]: the masses from low on are enough, those above high are not.
  Bits known = {BitsOf(whole.least), BitsOf(whole.most)};
  const int64_t capacity = TopPScratchFloats(n) - 128;
  Bits bracket = n > 2 * kSample ? LikelyBits(masses, n, target, known, scratch) : known;
  while (known.low < known.high) {
    double beyond = 0;
    const int64_t count =
        Capture(masses, n, MassOf(bracket.low), MassOf(bracket.high), scratch, capacity, &beyond);
    if (count <= capacity) {
      if (bracket.high < known.high && Enough(beyond, target)) {
        known.low = bracket.high + 1;
      } else if (bracket.low > known.low &&
                 !Enough(beyond + SumFrom(scratch, count, MassOf(bracket.low)), target)) {
        known.high = bracket.low - 1;
      } else {
        return MassOf(HighestEnough(scratch, count, beyond, bracket.low, bracket.high, target));
      }
    }
    // The bracket misses, or holds too many: half of what is known.
    const int32_t middle = known.low + (known.high - known.low + 1) / 2;
    if (Enough(SumFrom(masses, n, MassOf(middle)), target)) {
      known.low = middle;
    } else {
      known.high = middle - 1;
    }
    bracket = known;
  }
  return MassOf(known.low);
}

SA_INLINE uint32_t PartBits(const uint64_t* excluded, int64_t i) {
  return excluded == nullptr
             ? ~0u
             : static_cast<uint32_t>(~excluded[i >> 6] >> (i & 63));  // kLanes divide 64
}

// -1 in the lanes whose bit is set.
SA_INLINE I32 LanesOf(uint32_t bits) {
#if defined(SA_AVX512)
  return reinterpret_cast<I32>(_mm512_movm_epi32(static_cast<__mmask16>(bits)));
#elif defined(SA_NEON)
  const uint32x4_t weights = {1, 2, 4, 8};
  return reinterpret_cast<I32>(vtstq_u32(vdupq_n_u32(bits), weights));
#else
  I32 lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = -static_cast<int32_t>(bits >> i & 1);
  return lanes;
#endif
}

float Highest(const float* logits, int64_t n, const uint64_t* excluded) {
  const F32 infinity = Set(__builtin_inff());
  F32 highest = -infinity;
  for (int64_t i = 0; i < n; i += kLanes) {
    uint32_t part = PartBits(excluded, i);
    if (n - i < kLanes) part &= (1u << (n - i)) - 1;
    F32 x = LoadUpTo(logits + i, n - i);
    x = x <= infinity ? x : infinity;
    highest = Max(highest, LanesOf(part) ? x : -infinity);
  }
  return MaxLanes(highest);
}

double Masses(const float* logits, int64_t n, const uint64_t* excluded, float top, float* masses) {
  const float infinity = __builtin_inff();
  Sum sum;
  for (int64_t i = 0; i < n; i += kLanes) {
    uint32_t part = PartBits(excluded, i);
    const F32 x = LoadUpTo(logits + i, n - i);
    if (n - i < kLanes) part &= (1u << (n - i)) - 1;
    F32 mass;
    if (top == infinity) {
      mass = x < infinity ? F32{} : Set(1);
    } else if (top == -infinity) {
      mass = F32{};
    } else {
      mass = Exp(x - top);
    }
    mass = LanesOf(part) ? mass : F32{};
    Add(mass, &sum);
    if (n - i >= kLanes) {
      Store(mass, masses + i);
    } else {
      StoreFirst(mass, masses + i, static_cast<int>(n - i));
    }
  }
  return Total(sum);
}

void SelectReaching(const float* masses, int64_t n, float threshold, const uint64_t* excluded,
                    uint64_t* selected) {
  const F32 bound = Set(threshold);
  ForWords(0, masses, n, excluded,
           [&](int64_t w, const float* x, uint64_t eligible, auto) SA_LAMBDA {
             uint64_t bits = 0;
#pragma GCC unroll 16
             for (int i = 0; i < 64; i += kLanes) {
               bits |= static_cast<uint64_t>(LaneBits(Load(x + i) >= bound)) << i;
             }
             selected[w] |= bits & eligible;
             return true;
           });
}

}  // namespace

TopPKernels MakeTopPKernels() { return {Highest, Masses, Threshold, SelectReaching}; }

}  // namespace sparse_attention::cpu::SA_ISA
