#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {

RowProductKernels RowProductKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakeRowProductKernels)();
}

}  // namespace sparse_attention::cpu
