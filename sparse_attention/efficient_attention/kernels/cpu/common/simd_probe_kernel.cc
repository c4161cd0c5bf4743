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
template <typename T>
SA_INLINE void Narrow(const float* x, int64_t n, T* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    if (count == kLanes) {
      StoreFloats(Load(x + i), out + i);
    } else {
      StoreFloatsFirst(LoadFirst(x + i, count), out + i, count);
    }
  }
}
void ToHalf(const float* x, int64_t n, Float16* out) { Narrow(x, n, out); }
void ToBrain(const float* x, int64_t n, BFloat16* out) { Narrow(x, n, out); }
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

void Least(const float* x, const float* y, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    StoreFirst(Min(LoadFirst(x + i, count), LoadFirst(y + i, count)), out + i, count);
  }
}
uint64_t Positive(const float* x) {
  uint64_t bits = 0;
  for (int i = 0; i < 64; i += kLanes) bits |= uint64_t{LaneBits(Load(x + i) > 0.0f)} << i;
  return bits;
}

}  // namespace

SimdProbe MakeSimdProbe() {
  return {ExpAll, FromHalf, FromBrain, ToHalf, ToBrain, Sum, Most, Least, Positive};
}

}  // namespace sparse_attention::cpu::SA_ISA
