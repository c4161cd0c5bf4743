#include "sparse_attention/efficient_attention/kernels/cpu/score/collision_bias.h"

namespace sparse_attention::cpu {

CollisionBiasKernels CollisionBiasKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakeCollisionBiasKernels());
}

}  // namespace sparse_attention::cpu
