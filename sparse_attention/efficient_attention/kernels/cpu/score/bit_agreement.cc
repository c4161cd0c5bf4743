#include "sparse_attention/efficient_attention/kernels/cpu/score/bit_agreement.h"

namespace sparse_attention::cpu {

BitAgreementKernels BitAgreementKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakeBitAgreementKernels());
}

}  // namespace sparse_attention::cpu
