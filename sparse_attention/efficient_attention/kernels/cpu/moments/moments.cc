#include "sparse_attention/efficient_attention/kernels/cpu/moments/moments.h"

namespace sparse_attention::cpu {

MomentKernels MomentKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeMomentKernels()); }

}  // namespace sparse_attention::cpu
