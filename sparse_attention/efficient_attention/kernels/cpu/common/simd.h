// Vectors of the instruction set that a kernel's source is being compiled for. Only for kernel
// sources: sa_cpu_kernel (bazel/defs.bzl) compiles each once for every instruction set with SA_ISA
// set to its namespace.
//
// Everything here and in kernel sources lives in namespace SA_ISA and is inlined: a function that
// two instruction sets shared by name would be merged by the linker into the one that this machine
// may not run. For that reason kernel sources also call no function templates of the standard
// library that might not be inlined.
//
// F32 and U32 have kLanes lanes and the operators of GCC's vector extension; comparisons give I32
// with lanes 0 or -1. The tails of rows are handled by LoadFirst and StoreFirst.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_H_

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(SA_NEON)
#include <arm_neon.h>
#endif

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

#ifndef SA_ISA
#error "simd.h is for sources of sa_cpu_kernel"
#endif

// What the current instruction set has. SA_NEON comes from sa_cpu_kernel: the compiler's own macros
// are those of the generic set.
#if defined(__AVX512F__)
#define SA_AVX512 1
#endif
#if defined(__AVX512BF16__)
#define SA_AVX512_BF16 1
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
#define SA_AVX2 1
#endif

#define SA_INLINE inline __attribute__((always_inline))

namespace sparse_attention::cpu::SA_ISA {

#if defined(SA_AVX512)
constexpr int kLanes = 16;
#elif defined(SA_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F32 __attribute__((vector_size(4 * kLanes)));
typedef int32_t I32 __attribute__((vector_size(4 * kLanes)));
typedef uint32_t U32 __attribute__((vector_size(4 * kLanes)));
typedef uint16_t U16Half __attribute__((vector_size(2 * kLanes)));

// Four floats, whatever the vectors are.
typedef float F4 __attribute__((vector_size(16)));

// Vector registers.
#if defined(SA_AVX512) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// Subtracting 0 changes nothing and costs nothing; adding it would make 0 of -0.
SA_INLINE F32 Set(float x) { return x - F32{}; }
SA_INLINE U32 SetU32(uint32_t x) { return U32{} + x; }

SA_INLINE F32 Load(const float* p) {
  F32 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
SA_INLINE void Store(F32 x, float* p) { std::memcpy(p, &x, sizeof(x)); }

// kLanes elements as float.
SA_INLINE F32 LoadFloats(const float* p) { return Load(p); }
SA_INLINE F32 LoadFloats(const BFloat16* p) {
#if defined(SA_AVX512)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<F32>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#elif defined(SA_AVX2)
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<F32>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#elif defined(SA_NEON)
  return reinterpret_cast<F32>(vshll_n_u16(vld1_u16(&p->bits), 16));
#else
  U16Half bits;
  std::memcpy(&bits, p, sizeof(bits));
  return reinterpret_cast<F32>(__builtin_convertvector(bits, U32) << 16);
#endif
}
SA_INLINE F32 LoadFloats(const Float16* p) {
#if defined(SA_AVX512)
  return reinterpret_cast<F32>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(SA_AVX2)
  return reinterpret_cast<F32>(
      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(SA_NEON)
  return reinterpret_cast<F32>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))));
#else
  // Without branches: a subnormal becomes normal by a multiplication that is exact.
  U16Half halves;
  std::memcpy(&halves, p, sizeof(halves));
  const U32 bits = __builtin_convertvector(halves, U32);
  const U32 magnitude = (bits & 0x7FFF) << 13;
  const F32 finite = reinterpret_cast<F32>(magnitude) * 0x1p112f;
  const I32 special = magnitude >= (0x7C00u << 13);
  const U32 wide = special ? (magnitude | 0x7F800000u) : reinterpret_cast<U32>(finite);
  return reinterpret_cast<F32>(wide | (bits & 0x8000) << 16);
#endif
}

// kLanes floats rounded to elements, to nearest, ties to even; NaN stays NaN.
SA_INLINE void StoreFloats(F32 x, float* p) { Store(x, p); }
SA_INLINE void StoreFloats(F32 x, BFloat16* p) {
  const U32 bits = reinterpret_cast<U32>(x);
  const U32 rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const U32 chosen = x != x ? (bits >> 16 | 0x40u) : rounded;
  const U16Half halves = __builtin_convertvector(chosen, U16Half);
  std::memcpy(p, &halves, sizeof(halves));
}
SA_INLINE void StoreFloats(F32 x, Float16* p) {
#if defined(SA_AVX512)
  const __m256i halves = _mm512_cvtps_ph(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT);
#elif defined(SA_AVX2)
  const __m128i halves = _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT);
#elif defined(SA_NEON)
  const float16x4_t halves = vcvt_f16_f32(reinterpret_cast<float32x4_t>(x));
#else
  const U32 bits = reinterpret_cast<U32>(x);
  const U32 sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  const U32 normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 rounds at 2^-24, the unit of subnormals.
  const U32 small = reinterpret_cast<U32>(reinterpret_cast<F32>(magnitude) + 0.5f) - 0x3F000000u;
  U32 half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477FF000u ? SetU32(0x7C00u) : half;
  half = magnitude > 0x7F800000u ? SetU32(0x7E00u) : half;
  const U16Half halves = __builtin_convertvector(half | sign, U16Half);
#endif
  std::memcpy(p, &halves, sizeof(halves));
}

// The first `count` elements, 0 behind them; nothing beyond them is read.
template <typename T>
SA_INLINE F32 LoadFirst(const T* p, int count) {
  T x[kLanes] = {};
  std::memcpy(x, p, sizeof(T) * static_cast<size_t>(count));
  return LoadFloats(x);
}
SA_INLINE void StoreFirst(F32 x, float* p, int count) {
  std::memcpy(p, &x, sizeof(float) * static_cast<size_t>(count));
}
template <typename T>
SA_INLINE void StoreFloatsFirst(F32 x, T* p, int count) {
  T elements[kLanes];
  StoreFloats(x, elements);
  std::memcpy(p, elements, sizeof(T) * static_cast<size_t>(count));
}

// a * b + c, in one rounding where there is an instruction for it.
SA_INLINE F32 MulAdd(F32 a, F32 b, F32 c) {
#if defined(SA_AVX512)
  return reinterpret_cast<F32>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(SA_AVX2)
  return reinterpret_cast<F32>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(SA_NEON)
  return reinterpret_cast<F32>(vfmaq_f32(reinterpret_cast<float32x4_t>(c),
                                         reinterpret_cast<float32x4_t>(a),
                                         reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

// Of a NaN and a number either may result.
#if defined(SA_NEON)
SA_INLINE F32 Max(F32 a, F32 b) {
  return reinterpret_cast<F32>(
      vmaxq_f32(reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
}
SA_INLINE F32 Min(F32 a, F32 b) {
  return reinterpret_cast<F32>(
      vminq_f32(reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
}
#else
SA_INLINE F32 Max(F32 a, F32 b) { return a > b ? a : b; }
SA_INLINE F32 Min(F32 a, F32 b) { return a < b ? a : b; }
#endif

// x, but at least `least` and at most `most`; NaN stays NaN.
SA_INLINE F32 Clamp(F32 x, float least, float most) {
#if defined(SA_AVX512)
  // Of a NaN these give the second operand.
  const __m512 above = _mm512_max_ps(_mm512_set1_ps(least), reinterpret_cast<__m512>(x));
  return reinterpret_cast<F32>(_mm512_min_ps(_mm512_set1_ps(most), above));
#elif defined(SA_AVX2)
  const __m256 above = _mm256_max_ps(_mm256_set1_ps(least), reinterpret_cast<__m256>(x));
  return reinterpret_cast<F32>(_mm256_min_ps(_mm256_set1_ps(most), above));
#else
  return x < least ? Set(least) : (x > most ? Set(most) : x);
#endif
}

// Sums and maxima over lanes, always in the same order.
SA_INLINE float SumLanes(F32 x) {
#if defined(SA_AVX512)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(x));
#elif defined(SA_NEON)
  return vaddvq_f32(reinterpret_cast<float32x4_t>(x));
#else
  float lanes[kLanes];
  Store(x, lanes);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
#endif
}
SA_INLINE float MaxLanes(F32 x) {
#if defined(SA_AVX512)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(x));
#elif defined(SA_NEON)
  return vmaxvq_f32(reinterpret_cast<float32x4_t>(x));
#else
  float lanes[kLanes];
  Store(x, lanes);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    }
  }
  return lanes[0];
#endif
}

// The sums of the lanes of four vectors.
SA_INLINE F4 SumLanes4(F32 a, F32 b, F32 c, F32 d) {
#if defined(SA_AVX512)
  const __m512 x[4] = {reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                       reinterpret_cast<__m512>(c), reinterpret_cast<__m512>(d)};
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return reinterpret_cast<F4>(
      _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(SA_AVX2)
  const __m256 x[4] = {reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                       reinterpret_cast<__m256>(c), reinterpret_cast<__m256>(d)};
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
  const __m256 all =
      _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
  return reinterpret_cast<F4>(
      _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#elif defined(SA_NEON)
  return reinterpret_cast<F4>(
      vpaddq_f32(vpaddq_f32(reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)),
                 vpaddq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(d))));
#else
  const F32 ab =
      __builtin_shuffle(a, b, I32{0, 4, 1, 5}) + __builtin_shuffle(a, b, I32{2, 6, 3, 7});
  const F32 cd =
      __builtin_shuffle(c, d, I32{0, 4, 1, 5}) + __builtin_shuffle(c, d, I32{2, 6, 3, 7});
  return __builtin_shuffle(ab, cd, I32{0, 1, 4, 5}) + __builtin_shuffle(ab, cd, I32{2, 3, 6, 7});
#endif
}

// A bit a lane: set where the lane of a comparison is -1.
SA_INLINE uint32_t LaneBits(I32 lanes) {
#if defined(SA_AVX512)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(lanes));
#elif defined(SA_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(lanes)));
#elif defined(SA_NEON)
  const I32 weights = {1, 2, 4, 8};
  return static_cast<uint32_t>(vaddvq_s32(reinterpret_cast<int32x4_t>(lanes & weights)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(lanes[i] & 1) << i;
  return bits;
#endif
}

#if defined(SA_NEON)
// The same for 64 lanes of kBytes bytes each, which are 0 or -1.
template <int kBytes>
SA_INLINE uint64_t LaneBits64(const uint8x16_t* lanes) {
  static_assert(kBytes == 1 || kBytes == 2 || kBytes == 4 || kBytes == 8);
  if constexpr (kBytes > 1) {
    uint8x16_t half[2 * kBytes];
    for (int i = 0; i < 2 * kBytes; ++i) half[i] = vuzp1q_u8(lanes[2 * i], lanes[2 * i + 1]);
    return LaneBits64<kBytes / 2>(half);
  } else {
    const uint8x16_t weights = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    const uint8x16_t low = vpaddq_u8(vandq_u8(lanes[0], weights), vandq_u8(lanes[1], weights));
    const uint8x16_t high = vpaddq_u8(vandq_u8(lanes[2], weights), vandq_u8(lanes[3], weights));
    const uint8x16_t fours = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(fours, fours)), 0);
  }
}
#endif

// e^x for x <= 88, relative error below 3 units in the last place; 0 at and below about -87.3,
// for -infinity too; NaN stays NaN. Cody and Waite's reduction to [-ln 2 / 2, ln 2 / 2] and the
// minimax polynomial of Cephes' expf.
SA_INLINE F32 Exp(F32 x) {
  constexpr float kLeast = -87.33654f;
  const F32 bounded = Clamp(x, kLeast, 88.0f);
  // The nearest whole number, by the rounding of an addition.
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const F32 shifted = MulAdd(bounded, Set(1.44269504f), Set(kRound));
  const F32 whole = shifted - kRound;
  F32 r = MulAdd(whole, Set(-0.693359375f), bounded);
  r = MulAdd(whole, Set(2.12194440e-4f), r);
  F32 p = Set(1.9875691500e-4f);
  p = MulAdd(p, r, Set(1.3981999507e-3f));
  p = MulAdd(p, r, Set(8.3334519073e-3f));
  p = MulAdd(p, r, Set(4.1665795894e-2f));
  p = MulAdd(p, r, Set(1.6666665459e-1f));
  p = MulAdd(p, r, Set(5.0000001201e-1f));
  p = MulAdd(p * r, r, r + 1.0f);
#if defined(SA_AVX512)
  const __mmask16 counts =
      _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), _mm512_set1_ps(kLeast), _CMP_NLT_UQ);
  return reinterpret_cast<F32>(
      _mm512_maskz_scalef_ps(counts, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(whole)));
#else
  const U32 power = (reinterpret_cast<U32>(shifted) << 23);  // 2^whole as an exponent's addend
  const F32 result = reinterpret_cast<F32>(reinterpret_cast<U32>(p) + power);
  return x != x ? x : (x < kLeast ? F32{} : result);
#endif
}

// Asks for the line of `p`. In assembly: GCC 12 drops __builtin_prefetch from some inlined loops.
SA_INLINE void PrefetchL1(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__aarch64__)
  asm volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(p)));
#endif
}
// The same into the second level, which has room for more requests.
SA_INLINE void PrefetchL2(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__aarch64__)
  asm volatile("prfm pldl2keep, %0" : : "Q"(*static_cast<const char*>(p)));
#endif
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_H_
