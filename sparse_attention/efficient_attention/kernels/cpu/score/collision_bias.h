// Weights of MagicPIG's keys: how likely a key would have shared a hash bucket with the query.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_COLLISION_BIAS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_COLLISION_BIAS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// The cosine of key i is (products[i] - offset) * inverse.
struct CollisionProblem {
  double offset;
  double inverse;
  int64_t bits;    // planes of a table, in [1, 64]
  int64_t tables;  // >= 1
};

struct CollisionBiasKernels {
  // bias[i] = -log(p), p = CollisionProbability (key_index/hash_core.h) of products[i], i in [0,
  // count); infinity where p as a float32 is 0 or NaN. Computed in float64: p within 1e-12 bits of
  // itself.
  void (*bias)(const CollisionProblem&, const double* products, int64_t count, float* bias);
};

SA_DECLARE_ISAS(CollisionBiasKernels MakeCollisionBiasKernels())

CollisionBiasKernels CollisionBiasKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_COLLISION_BIAS_H_
