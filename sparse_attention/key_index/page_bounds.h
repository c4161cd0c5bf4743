// The least and largest value of every channel over a page of keys, without LibTorch: the contents
// of quest_pages.h.
#ifndef SPARSE_ATTENTION_KEY_INDEX_PAGE_BOUNDS_H_
#define SPARSE_ATTENTION_KEY_INDEX_PAGE_BOUNDS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/key_rows.h"

namespace sparse_attention::cpu {

struct PageExtremesKernels {
  // Of the rows that are finite; 0 where none is. low and high: [dim].
  void (*bounds)(const KeyRows& page, int64_t dim, float* low, float* high);
};

SA_DECLARE_ISAS(PageExtremesKernels MakePageExtremesKernels())
PageExtremesKernels PageExtremesKernelsFor(Isa isa);

// Bounds of the pages that `keys` begin, page_size rows each but the last: page p's at low and high
// + p * dim. With label_bits < 16 each is quantised as a vector of its own.
void EncodePageBounds(const KeyRows& keys, int64_t dim, int64_t page_size, int64_t label_bits,
                      Isa isa, float* low, float* high);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_PAGE_BOUNDS_H_
