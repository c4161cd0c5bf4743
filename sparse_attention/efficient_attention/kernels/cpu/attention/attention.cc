#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"

namespace sparse_attention::cpu {

const AttentionKernels& AttentionKernelsFor(Isa isa) {
  static const auto* const kernels = [] {
    static AttentionKernels all[kNumIsas];
    for (Isa each : SupportedIsas()) {
      all[static_cast<int>(each)] = SA_CHOOSE_ISA(each, MakeAttentionKernels());
    }
    return all;
  }();
  return kernels[static_cast<int>(isa)];
}

}  // namespace sparse_attention::cpu
