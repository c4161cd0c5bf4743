#include "sparse_attention/key_index/page_bounds.h"

#include <algorithm>

#include "sparse_attention/key_index/quantize_core.h"

namespace sparse_attention::cpu {

PageExtremesKernels PageExtremesKernelsFor(Isa isa) {
  return SA_CHOOSE_ISA(isa, MakePageExtremesKernels)();
}

void EncodePageBounds(const KeyRows& keys, int64_t dim, int64_t page_size, int64_t label_bits,
                      Isa isa, float* low, float* high) {
  const PageExtremesKernels kernels = PageExtremesKernelsFor(isa);
  for (int64_t first = 0; first < keys.rows; first += page_size, low += dim, high += dim) {
    kernels.bounds(keys.Part(first, std::min(page_size, keys.rows - first)), dim, low, high);
    if (label_bits < 16) {
      PseudoQuantizeVector(low, dim, label_bits);
      PseudoQuantizeVector(high, dim, label_bits);
    }
  }
}

}  // namespace sparse_attention::cpu
