#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"

namespace sparse_attention::cpu {

BitmapKernels BitmapKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeBitmapKernels()); }

}  // namespace sparse_attention::cpu
