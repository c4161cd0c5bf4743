#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/collision_bias.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kDoubles = kLanes / 2;
typedef double F64 __attribute__((vector_size(8 * kDoubles)));
typedef int64_t I64 __attribute__((vector_size(8 * kDoubles)));
typedef float F32Half __attribute__((vector_size(4 * kDoubles)));

SA_INLINE F64 Sqrt(F64 x) {
#if defined(SA_AVX512)
  return reinterpret_cast<F64>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(x)));
#elif defined(SA_AVX2)
  return reinterpret_cast<F64>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(x)));
#elif defined(__x86_64__)
  return reinterpret_cast<F64>(_mm_sqrt_pd(reinterpret_cast<__m128d>(x)));
#elif defined(SA_NEON)
  return reinterpret_cast<F64>(vsqrtq_f64(reinterpret_cast<float64x2_t>(x)));
#else
  for (int i = 0; i < kDoubles; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// 1 - acos(x) / pi, without loss where it is next to 0; x beyond [-1, 1] counts as the nearest of
// it, NaN stays NaN. acos by asin in [0, 1/2], whose series beyond its first term is a polynomial
// of the square, interpolated: error below 2e-14.
SA_INLINE F64 SameSide(F64 x) {
  constexpr double kHalfTurn = 3.14159265358979323846, kQuarterTurn = kHalfTurn / 2;
  F64 u = x < 0 ? -x : x;
  u = u > 1 ? F64{} + 1 : u;
  const I64 small = u <= 0.5;
  const F64 square = small ? u * u : (1 - u) * 0.5;
  const F64 t = small ? u : Sqrt(square);
  constexpr double kSeries[] = {0.027906836598864577, -0.0029395512530766598, 0.01567553752777113,
                                0.013187951192457397, 0.017441489886178295,   0.02236606651532205,
                                0.030382182742739336, 0.04464285243897652,    0.07500000003583203,
                                0.16666666666662186};
  F64 p = F64{} + kSeries[0];
  for (int i = 1; i < 10; ++i) p = p * square + kSeries[i];
  const F64 asin = t + t * square * p;
  const F64 acos = small ? kQuarterTurn - asin : 2 * asin;  // of u
  return (x < 0 ? acos : kHalfTurn - acos) * (1 / kHalfTurn);
}

// log x of normal numbers, by that of a number in [sqrt(1/2), sqrt 2]: f + f^3 / 3 + ... of
// f = (m - 1) / (m + 1), twice.
SA_INLINE F64 Log(F64 x) {
  const I64 bits = reinterpret_cast<I64>(x);
  constexpr int64_t kRoot = 0x3FE6A09E667F3BCD;  // sqrt(1/2)
  const I64 exponent = (bits - kRoot) >> 52;
  const F64 m = reinterpret_cast<F64>(bits - (exponent << 52));
  // Of whole numbers that a float64 holds beside 1.5 * 2^52.
  constexpr double kBase = 6755399441055744.0;
  const F64 power = reinterpret_cast<F64>(exponent + 0x4338000000000000) - kBase;
  const F64 f = (m - 1) / (m + 1), square = f * f;
  F64 p = F64{} + 1. / 17;
  for (int k = 15; k >= 1; k -= 2) p = p * square + 1. / k;
  return power * 0.69314718055994530942 + 2 * f * p;
}

SA_INLINE F32Half BiasOf(const CollisionProblem& problem, F64 product) {
  F64 power = SameSide((product - problem.offset) * problem.inverse);
  F64 in_table = F64{} + 1;
  for (int64_t left = problem.bits; left > 0; left >>= 1) {
    if ((left & 1) != 0) in_table *= power;
    power *= power;
  }
  // Of any of m + n tables: a + b - a b. Nothing cancels where it is tiny.
  F64 any = {}, of_some = in_table;
  for (int64_t left = problem.tables; left > 0; left >>= 1) {
    if ((left & 1) != 0) any += of_some * (1 - any);
    of_some += of_some * (1 - of_some);
  }
  const F32Half probability = __builtin_convertvector(any, F32Half);
  const F32Half bias = __builtin_convertvector(-Log(any), F32Half);
  return probability > 0 ? bias : F32Half{} + __builtin_inff();
}

void Bias(const CollisionProblem& problem, const double* products, int64_t count, float* bias) {
  for (int64_t i = 0; i < count; i += kDoubles) {
    F64 x = {};
    const size_t these = static_cast<size_t>(count - i < kDoubles ? count - i : kDoubles);
    if (these == kDoubles) {
      std::memcpy(&x, products + i, sizeof(x));
    } else {
      std::memcpy(&x, products + i, sizeof(double) * these);
    }
    const F32Half result = BiasOf(problem, x);
    if (these == kDoubles) {
      std::memcpy(bias + i, &result, sizeof(result));
    } else {
      std::memcpy(bias + i, &result, sizeof(float) * these);
    }
  }
}

}  // namespace

CollisionBiasKernels MakeCollisionBiasKernels() { return {Bias}; }

}  // namespace sparse_attention::cpu::SA_ISA
