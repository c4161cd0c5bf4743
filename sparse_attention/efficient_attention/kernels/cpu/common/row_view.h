// RowView: the key or value rows of one sequence and KV head, contiguous or in pages.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ROW_VIEW_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ROW_VIEW_H_

#include <cstdint>

namespace sparse_attention::cpu {

// The elements of a row lie side by side. Row j of a contiguous view is at base + j * row_stride.
// In a paged one it is row j % 2^page_shift of page pages[j >> page_shift], pages lying page_stride
// bytes apart: the block tables of serving engines.
struct RowView {
  const char* base = nullptr;
  int64_t row_stride = 0;          // bytes
  const int32_t* pages = nullptr;  // null: contiguous
  int32_t page_shift = 0;
  int64_t page_stride = 0;  // bytes

  bool paged() const { return pages != nullptr; }
  const char* Row(int64_t j) const {
    if (pages == nullptr) return base + j * row_stride;
    const int64_t in_page = j & ((int64_t{1} << page_shift) - 1);
    return base + pages[j >> page_shift] * page_stride + in_page * row_stride;
  }
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ROW_VIEW_H_
