#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

namespace sparse_attention::cpu {

TopPKernels TopPKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeTopPKernels()); }

}  // namespace sparse_attention::cpu
