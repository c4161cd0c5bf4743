#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_lines.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/soft_buckets.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kLaneBits = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
constexpr int kRowsAtOnce = 4;  // of a sum

// Of bits being 1 and 0; neither is taken as 1 less the other, which would cancel.
SA_INLINE void Probabilities(F32 side, float scale, F32* one, F32* zero) {
  const F32 t = Exp((side < 0 ? -side : side) * -2.0f);
  const F32 tanh = (1.0f - t) / (1.0f + t);
  const F32 e = Exp(tanh * (-2 * scale));
  const F32 likely = 1.0f / (1.0f + e);
  const F32 rare = e * likely;
  *one = side > 0 ? likely : rare;
  *zero = side > 0 ? rare : likely;
}

// In lane i the probability that bit b of a bucket is bit b of i.
template <int b>
SA_INLINE F32 OfLanes(const float* one, const float* zero) {
  I32 is_one;
  for (int i = 0; i < kLanes; ++i) is_one[i] = -(i >> b & 1);
  return is_one ? Set(one[b]) : Set(zero[b]);
}

// The probabilities of all patterns of `bits` bits.
SA_INLINE void FillHalf(const float* one, const float* zero, int bits, float* half) {
  F32 first = Set(1.0f);
  if (bits > 0) first = OfLanes<0>(one, zero);
  if (bits > 1) first = first * OfLanes<1>(one, zero);
  if constexpr (kLaneBits > 2) {
    if (bits > 2) first = first * OfLanes<2>(one, zero);
  }
  if constexpr (kLaneBits > 3) {
    if (bits > 3) first = first * OfLanes<3>(one, zero);
  }
  StoreCount(first, half, bits < kLaneBits ? 1 << bits : kLanes);
  for (int b = kLaneBits; b < bits; ++b) {
    const F32 ones = Set(one[b]), zeros = Set(zero[b]);
    const int size = 1 << b;
    for (int e = 0; e < size; e += kLanes) {
      const F32 x = Load(half + e);
      Store(x * ones, half + size + e);
      Store(x * zeros, half + e);
    }
  }
}

void Halves(const float* sides, int64_t count, int bits, float scale, float* halves) {
  constexpr int kSides = 512;  // at a time
  alignas(64) float one[kSides], zero[kSides];
  const int low = LowBits(bits), tables = kSides / bits;
  for (int64_t first = 0; first < count; first += tables) {
    const int these = static_cast<int>(count - first < tables ? count - first : tables);
    for (int i = 0; i < these * bits; i += kLanes) {
      const int lanes = these * bits - i < kLanes ? these * bits - i : kLanes;
      F32 ones, zeros;
      Probabilities(LoadCount(sides + first * bits + i, lanes), scale, &ones, &zeros);
      Store(ones, one + i);
      Store(zeros, zero + i);
    }
    for (int t = 0; t < these; ++t) {
      float* const half = halves + (first + t) * HalvesFloats(bits);
      const float *const of_one = one + t * bits, *const of_zero = zero + t * bits;
      FillHalf(of_one, of_zero, low, half);
      FillHalf(of_one + low, of_zero + low, bits - low, half + (1 << low));
    }
  }
}

// The products of one table's halves summed over kRows rows, `stride` floats apart, and added to
// what `table` holds unless kFresh.
template <int kRows, bool kFresh>
SA_INLINE void Multiply(const float* halves, int64_t stride, int bits, float* table) {
  const int low = 1 << LowBits(bits), high = 1 << (bits - LowBits(bits));
  for (int j = 0; j < low; j += kLanes) {
    const int count = low - j < kLanes ? low - j : kLanes;
    F32 of_low[kRows];
    for (int r = 0; r < kRows; ++r) of_low[r] = LoadCount(halves + r * stride + j, count);
    for (int i = 0; i < high; ++i) {
      float* const at = table + i * int64_t{low} + j;
      const auto of_high = [&](int r) __attribute__((always_inline)) {
        return Set(halves[r * stride + low + i]);
      };
      F32 sum = of_low[0] * of_high(0);
      if constexpr (!kFresh) sum = sum + LoadCount(at, count);
      for (int r = 1; r < kRows; ++r) sum = MulAdd(of_low[r], of_high(r), sum);
      StoreCount(sum, at, count);
    }
  }
}

void Expand(const float* halves, int64_t count, int bits, float* table) {
  for (int64_t t = 0; t < count; ++t) {
    Multiply<1, true>(halves + t * HalvesFloats(bits), 0, bits, table + (t << bits));
  }
}

void ExpandSum(const float* halves, int rows, int64_t count, int bits, float* table) {
  const int64_t stride = count * HalvesFloats(bits);
  for (int64_t t = 0; t < count; ++t) {
    float* const to = table + (t << bits);
    int row = 0;
    const auto at = [&] { return halves + row * stride + t * HalvesFloats(bits); };
    if (rows < kRowsAtOnce) {
      Multiply<1, true>(at(), stride, bits, to);
      row = 1;
    } else {
      Multiply<kRowsAtOnce, true>(at(), stride, bits, to);
      row = kRowsAtOnce;
    }
    for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
      Multiply<kRowsAtOnce, false>(at(), stride, bits, to);
    }
    for (; row < rows; ++row) Multiply<1, false>(at(), stride, bits, to);
  }
}

}  // namespace

SoftBucketKernels MakeSoftBucketKernels() { return {Halves, Expand, ExpandSum}; }

}  // namespace sparse_attention::cpu::SA_ISA
