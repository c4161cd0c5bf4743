#include "sparse_attention/efficient_attention/kernels/cpu/score/soft_buckets.h"

namespace sparse_attention::cpu {

SoftBucketKernels SoftBucketKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakeSoftBucketKernels());
}

}  // namespace sparse_attention::cpu
