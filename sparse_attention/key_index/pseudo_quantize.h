// Asymmetric integer quantisation of vectors, each with its own range, as the Python hub quantises
// labels: a vector in [low, high] becomes integers in [0, 2^bits - 1].
#ifndef SPARSE_ATTENTION_KEY_INDEX_PSEUDO_QUANTIZE_H_
#define SPARSE_ATTENTION_KEY_INDEX_PSEUDO_QUANTIZE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sparse_attention {

// The vectors lie along the last dimension: x = codes / scale + low.
struct QuantizedVectors {
  at::Tensor codes;  // float32, whole numbers, the shape of x
  at::Tensor scale;  // float32 [..., 1], (2^bits - 1) / (high - low); of a constant vector / 1
  at::Tensor low;    // float32 [..., 1]
};

// Rounds half to even. `bits` in [1, 16].
QuantizedVectors QuantizeVectors(const at::Tensor& x, int64_t bits);

// What is left of `x` after quantisation, float32.
at::Tensor PseudoQuantize(const at::Tensor& x, int64_t bits);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_PSEUDO_QUANTIZE_H_
