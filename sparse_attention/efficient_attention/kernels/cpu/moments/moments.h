// Masses of a sample's keys and their moments, for the budget of adaptive sampling.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_MOMENTS_MOMENTS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_MOMENTS_MOMENTS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// With m the mean, and s the mean of (x - m)^2.
struct Moments {
  double sum = 0;      // of x
  double squares = 0;  // of (x - m)^2
  double fourth = 0;   // of ((x - m)^2 - s)^2
};

struct MomentKernels {
  // The largest of x[count], count >= 1. Of a NaN and a number either may result.
  float (*most)(const float* x, int64_t count);
  // exp(x - top) of x[count], in place. top is finite and at least every x.
  void (*masses)(float* x, int64_t count, float top);
  // Of x[count], count >= 1; float64 sums in a fixed order.
  Moments (*moments)(const float* x, int64_t count);
};

MomentKernels MomentKernelsFor(Isa isa);

SA_DECLARE_ISAS(MomentKernels MakeMomentKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_MOMENTS_MOMENTS_H_
