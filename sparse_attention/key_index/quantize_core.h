// Quantisation of short vectors, each with its own range, without LibTorch: the codes of
// pseudo_quantize.h, bit for bit.
#ifndef SPARSE_ATTENTION_KEY_INDEX_QUANTIZE_CORE_H_
#define SPARSE_ATTENTION_KEY_INDEX_QUANTIZE_CORE_H_

#include <cstdint>

#include "sparse_attention/key_index/key_rows.h"

namespace sparse_attention::cpu {

// x = code / scale + low.
struct QuantizedRange {
  float scale = 1;
  float low = 0;
};

// Codes of x [n], n >= 1, in [0, 2^bits - 1], ties to even; bits in [1, 16] and no more than a Code
// holds. Of a vector with a NaN all codes are 0, and scale and low NaN.
// Code: uint8_t, int16_t or uint16_t.
template <typename Code>
QuantizedRange QuantizeVector(const float* x, int64_t n, int64_t bits, Code* codes);

// What is left of x after quantisation, in place.
void PseudoQuantizeVector(float* x, int64_t n, int64_t bits);

// Labels of keys: channels[0 .. n) of each row, quantised; row j's codes at codes + j *
// code_stride. `scratch` has n floats.
template <typename Code>
void EncodeLabels(const KeyRows& keys, const int64_t* channels, int64_t n, int64_t bits,
                  float* scratch, Code* codes, int64_t code_stride, float* scale, float* low);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_QUANTIZE_CORE_H_
