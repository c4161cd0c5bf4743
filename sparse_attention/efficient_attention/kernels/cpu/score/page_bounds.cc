#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"

namespace sparse_attention::cpu {

PageBoundsKernels PageBoundsKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakePageBoundsKernels());
}

}  // namespace sparse_attention::cpu
