#include "sparse_attention/efficient_attention/kernels/cpu/score/bucket_match.h"

namespace sparse_attention::cpu {

BucketMatchKernels BucketMatchKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakeBucketMatchKernels());
}

}  // namespace sparse_attention::cpu
