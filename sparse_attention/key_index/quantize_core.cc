#include "sparse_attention/key_index/quantize_core.h"

#include <algorithm>

namespace sparse_attention::cpu {
namespace {

// To the nearest whole number, ties to even, of [0, 2^16]: the addition rounds.
float Round(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  return (x + kRound) - kRound;
}

struct Quantizer {
  QuantizedRange range;
  float levels;

  // A whole number; 0 for what is not a number, which fails the comparison.
  float Code(float x) const {
    const float level = (x - range.low) * range.scale;
    return Round(level > 0 ? std::min(level, levels) : 0);
  }
};

Quantizer QuantizerOf(const float* x, int64_t n, int64_t bits) {
  float low = x[0], high = x[0];
  bool number = true;
  for (int64_t i = 0; i < n; ++i) {
    number = number && x[i] == x[i];
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (!number) low = high = __builtin_nanf("");
  const float levels = static_cast<float>((int64_t{1} << bits) - 1);
  const float range = high - low;
  return {{1 / (range == 0 ? 1 : range) * levels, low}, levels};
}

}  // namespace

template <typename Code>
QuantizedRange QuantizeVector(const float* x, int64_t n, int64_t bits, Code* codes) {
  const Quantizer quantizer = QuantizerOf(x, n, bits);
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<Code>(quantizer.Code(x[i]));
  return quantizer.range;
}

void PseudoQuantizeVector(float* x, int64_t n, int64_t bits) {
  const Quantizer quantizer = QuantizerOf(x, n, bits);
  const QuantizedRange& range = quantizer.range;
  for (int64_t i = 0; i < n; ++i) x[i] = quantizer.Code(x[i]) / range.scale + range.low;
}

template <typename Code>
void EncodeLabels(const KeyRows& keys, const int64_t* channels, int64_t n, int64_t bits,
                  float* scratch, Code* codes, int64_t code_stride, float* scale, float* low) {
  for (int64_t j = 0; j < keys.rows; ++j) {
    for (int64_t i = 0; i < n; ++i) scratch[i] = ElementAt(keys.Row(j), keys.element, channels[i]);
    const QuantizedRange range = QuantizeVector(scratch, n, bits, codes + j * code_stride);
    scale[j] = range.scale;
    low[j] = range.low;
  }
}

template QuantizedRange QuantizeVector(const float*, int64_t, int64_t, uint8_t*);
template QuantizedRange QuantizeVector(const float*, int64_t, int64_t, int16_t*);
template QuantizedRange QuantizeVector(const float*, int64_t, int64_t, uint16_t*);
template void EncodeLabels(const KeyRows&, const int64_t*, int64_t, int64_t, float*, uint8_t*,
                           int64_t, float*, float*);
template void EncodeLabels(const KeyRows&, const int64_t*, int64_t, int64_t, float*, int16_t*,
                           int64_t, float*, float*);
template void EncodeLabels(const KeyRows&, const int64_t*, int64_t, int64_t, float*, uint16_t*,
                           int64_t, float*, float*);

}  // namespace sparse_attention::cpu
