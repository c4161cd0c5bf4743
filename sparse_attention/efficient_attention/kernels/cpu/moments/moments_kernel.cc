#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/moments/moments.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kDoubles = kLanes / 2;
typedef double F64 __attribute__((vector_size(8 * kDoubles)));
typedef float F32Half __attribute__((vector_size(4 * kDoubles)));

SA_INLINE F64 LoadDoubles(const float* x) {
#if defined(SA_NEON)
  return reinterpret_cast<F64>(vcvt_f64_f32(vld1_f32(x)));
#else
  F32Half half;
  std::memcpy(&half, x, sizeof(half));
  return __builtin_convertvector(half, F64);
#endif
}

// The sum of term(x) over all values: over lanes of four vectors, then over these, then what is
// left one by one.
template <typename Term>
SA_INLINE double Sum(const float* x, int64_t count, const Term& term) {
  F64 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kDoubles <= count; i += 4 * kDoubles) {
    for (int s = 0; s < 4; ++s) sums[s] += term(LoadDoubles(x + i + s * kDoubles));
  }
  const F64 all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0;
  for (int lane = 0; lane < kDoubles; ++lane) sum += all[lane];
  for (; i < count; ++i) sum += term(F64{} + static_cast<double>(x[i]))[0];
  return sum;
}

float Most(const float* x, int64_t count) {
  if (count < kLanes) {
    float most = x[0];
    for (int64_t i = 1; i < count; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }
  F32 most = Load(x);
  for (int64_t i = kLanes; i + kLanes <= count; i += kLanes) most = Max(Load(x + i), most);
  return MaxLanes(Max(Load(x + count - kLanes), most));  // the last vector may overlap
}

void Masses(float* x, int64_t count, float top) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(Exp(Load(x + i) - top), x + i);
  if (i < count) {
    const int left = static_cast<int>(count - i);
    StoreFirst(Exp(LoadFirst(x + i, left) - top), x + i, left);
  }
}

Moments MomentsOf(const float* x, int64_t count) {
  Moments moments;
  const double n = static_cast<double>(count);
  moments.sum = Sum(x, count, [](F64 v) { return v; });
  const double mean = moments.sum / n;
  moments.squares = Sum(x, count, [mean](F64 v) { return (v - mean) * (v - mean); });
  const double square = moments.squares / n;
  moments.fourth = Sum(x, count, [mean, square](F64 v) {
    const F64 off = (v - mean) * (v - mean) - square;
    return off * off;
  });
  return moments;
}

}  // namespace

MomentKernels MakeMomentKernels() { return {Most, Masses, MomentsOf}; }

}  // namespace sparse_attention::cpu::SA_ISA
