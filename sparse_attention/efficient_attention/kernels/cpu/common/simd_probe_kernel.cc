#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/simd_probe.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

template <typename T>
SA_INLINE void Widen(const T* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    if (count == kLanes) {
      Store(LoadFloats(x + i), out + i);
    } else {
      StoreFirst(LoadFirst(x + i, count), out + i, count);
    }
  }
}

void ExpAll(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    StoreFirst(Exp(LoadFirst(x + i, count)), out + i, count);
  }
}
void FromHalf(const Float16* x, int64_t n, float* out) { Widen(x, n, out); }
void FromBrain(const BFloat16* x, int64_t n, float* out) { Widen(x, n, out); }

float Sum(const float* x, int64_t n) {
  F32 sum = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    sum = MulAdd(LoadFirst(x + i, static_cast<int>(n - i < kLanes ? n - i : kLanes)), Set(1), sum);
  }
  return SumLanes(sum);
}
float Most(const float* x, int64_t n) {
  F32 most = Set(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) most = Max(most, Load(x + i));
  for (; i < n; ++i) most = Max(most, Set(x[i]));
  return MaxLanes(most);
}

}  // namespace

SimdProbe MakeSimdProbe() { return {ExpAll, FromHalf, FromBrain, Sum, Most}; }

}  // namespace sparse_attention::cpu::SA_ISA
