#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"

namespace sparse_attention::cpu {

LabelKernels LabelKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeLabelKernels()); }

}  // namespace sparse_attention::cpu
