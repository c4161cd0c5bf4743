// Keys of one sequence and head as rows in memory, for functions without LibTorch.
#ifndef SPARSE_ATTENTION_KEY_INDEX_KEY_ROWS_H_
#define SPARSE_ATTENTION_KEY_INDEX_KEY_ROWS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

namespace sparse_attention::cpu {

// Row j begins j * row_stride bytes behind `data`.
struct KeyRows {
  const void* data = nullptr;
  Element element = Element::kFloat32;
  int64_t row_stride = 0;
  int64_t rows = 0;

  const char* Row(int64_t j) const { return static_cast<const char*>(data) + j * row_stride; }
  KeyRows Part(int64_t begin, int64_t count) const {
    return {Row(begin), element, row_stride, count};
  }
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_KEY_ROWS_H_
