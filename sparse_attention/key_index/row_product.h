// Products of rows with weights, activations and signs, without LibTorch: what hashes, signatures
// and indexer keys are made of. Every output is a function of its own row alone, bit for bit, on
// every instruction set: products are added one after the other in the order of `in`, without fused
// operations.
#ifndef SPARSE_ATTENTION_KEY_INDEX_ROW_PRODUCT_H_
#define SPARSE_ATTENTION_KEY_INDEX_ROW_PRODUCT_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// Weights [in, out] in tiles of kTileColumns outputs: the weight of input i and output c is
// data[c / 32 * tile_stride + i * row_stride + c % 32].
constexpr int64_t kTileColumns = 32;
struct Weights {
  const void* data = nullptr;
  int64_t in = 0, out = 0;
  int64_t row_stride = 0, tile_stride = 0;  // in elements
  Element element = Element::kFloat32;
  // What the caller reads next, or null: asked for while the last weights are read.
  const void* next = nullptr;
};
// Of a matrix as it is, rows one behind the other.
constexpr Weights PlainWeights(const void* data, int64_t in, int64_t out,
                               Element element = Element::kFloat32) {
  return {data, in, out, out, kTileColumns, element};
}
// Of tiles one behind the other, which are read in order: TiledFloats(in, out) floats.
constexpr int64_t TiledFloats(int64_t in, int64_t out) {
  return (out + kTileColumns - 1) / kTileColumns * kTileColumns * in;
}
constexpr Weights TiledWeights(const float* data, int64_t in, int64_t out) {
  return {data, in, out, kTileColumns, in * kTileColumns, Element::kFloat32};
}

enum class RowActivation : int32_t { kRelu = 0, kSilu = 1, kGelu = 2, kTanh = 3 };  // gelu by erf

struct RowProductKernels {
  // out[r * out_stride + c] = sum over i of x[r * x_stride + i] * weight(i, c), + bias[c] unless
  // null. `out` may not overlap `x`. Few rows are bound by reading the weights: those are asked for
  // ahead of their use.
  void (*multiply)(const float* x, int64_t rows, int64_t x_stride, const Weights& weights,
                   const float* bias, float* out, int64_t out_stride);
  // In place; within one unit in the last place of the exact value.
  void (*activate)(RowActivation activation, float* x, int64_t n);
  // Bit i % 64 of word i / 64 is 1 where x[i] > 0, or >= 0; the bits behind the last are 0.
  void (*signs)(const float* x, int64_t n, bool zero_is_one, uint64_t* words);
  // n elements as floats.
  void (*widen)(const void* x, Element element, int64_t n, float* out);
};

SA_DECLARE_ISAS(RowProductKernels MakeRowProductKernels())
RowProductKernels RowProductKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_ROW_PRODUCT_H_
