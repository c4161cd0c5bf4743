#include "sparse_attention/efficient_attention/kernels/cpu/sample/without_replacement.h"

namespace sparse_attention::cpu {

SampleKernels SampleKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeSampleKernels()); }

}  // namespace sparse_attention::cpu
