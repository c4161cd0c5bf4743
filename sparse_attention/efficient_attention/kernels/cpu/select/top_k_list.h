// Exact top-k of rows of scores in memory, as ascending lists.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_LIST_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_LIST_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

namespace sparse_attention::cpu {

// Reusable, one row after the other. Memory, about 0.9 bytes a score, is allocated when it is made.
class TopKList {
 public:
  // Rows have up to max_n scores, max_n > 0.
  TopKList(Isa isa, int64_t max_n)
      : scratch_(static_cast<size_t>(TopKStream::ScratchBytes(max_n))),
        bits_(static_cast<size_t>(BitmapWords(max_n)) * sizeof(uint64_t)),
        bitmaps_(BitmapKernelsFor(isa)) {
    if (scratch_.data() == nullptr || bits_.data() == nullptr) return;
    stream_.emplace(TopKKernelsFor(isa), max_n, scratch_.data());
  }

  // False: there was no memory, and Select must not be called.
  bool ok() const { return stream_.has_value(); }

  // The rule of TopKStream for scores[n]; `excluded` is a bitmap of scores that take no part, or
  // null. Writes the indices, ascending, to selected[k], 0 < k <= n, and returns how many.
  int64_t Select(const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
                 uint32_t* selected) {
    uint64_t* const bits = bits_.as<uint64_t>();
    const int64_t words = BitmapWords(n);
    std::fill_n(bits, words, uint64_t{0});
    stream_->Select(scores, n, k, excluded, bits);
    return bitmaps_.to_list(bits, words, 0, selected, k);
  }

 private:
  AlignedBuffer scratch_, bits_;
  BitmapKernels bitmaps_;
  std::optional<TopKStream> stream_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_LIST_H_
