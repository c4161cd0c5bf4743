// Packing of bits into words, shared by learned signatures and locality-sensitive hashes.
#ifndef SPARSE_ATTENTION_KEY_INDEX_SIGN_BITS_H_
#define SPARSE_ATTENTION_KEY_INDEX_SIGN_BITS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sparse_attention {

enum class BitOrder {
  kLowestFirst,   // bit i has weight 2^i
  kHighestFirst,  // the first of w bits has weight 2^(w - 1)
};

// Groups of `width` bits along the last dimension as words: bool [..., bits] to int64 [...,
// ceil(bits / width)]. A last group that is not full is filled up with zeros behind its bits. width
// in [1, 64]; a word of 64 bits may be negative.
at::Tensor PackBits(const at::Tensor& bits, int64_t width, BitOrder order = BitOrder::kLowestFirst);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_SIGN_BITS_H_
