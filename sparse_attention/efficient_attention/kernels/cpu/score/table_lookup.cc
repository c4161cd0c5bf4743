#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

namespace sparse_attention::cpu {

LookupKernels LookupKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeLookupKernels()); }

}  // namespace sparse_attention::cpu
