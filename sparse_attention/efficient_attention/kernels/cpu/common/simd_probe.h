// What the vector layer computes, for its test: one function an instruction set.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_PROBE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_PROBE_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

struct SimdProbe {
  void (*exp)(const float* x, int64_t n, float* out);
  void (*from_half)(const Float16* x, int64_t n, float* out);
  void (*from_brain)(const BFloat16* x, int64_t n, float* out);
  void (*to_half)(const float* x, int64_t n, Float16* out);
  void (*to_brain)(const float* x, int64_t n, BFloat16* out);
  float (*sum)(const float* x, int64_t n);
  float (*max)(const float* x, int64_t n);
  void (*min)(const float* x, const float* y, int64_t n, float* out);
  uint64_t (*positive)(const float* x);  // bit i: x[i] > 0, of 64
};

SA_DECLARE_ISAS(SimdProbe MakeSimdProbe())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_SIMD_PROBE_H_
