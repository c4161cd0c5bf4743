#include "sparse_attention/key_index/mlp.h"

#include <algorithm>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kRows = 32;  // go through the MLP at a time

int64_t WidestRow(const Mlp& mlp) {
  int64_t widest = mlp.dim();
  for (const MlpLinear& linear : mlp.linears) widest = std::max(widest, linear.out);
  return widest;
}

// Calls take(first row, rows, outputs [rows][bits]) for pieces of the keys.
template <typename Take>
void Forward(const Mlp& mlp, int64_t head, const KeyRows& keys, Isa isa, float* scratch,
             const Take& take) {
  const RowProductKernels kernels = RowProductKernelsFor(isa);
  float* const buffers[2] = {scratch, scratch + kRows * WidestRow(mlp)};
  for (int64_t begin = 0; begin < keys.rows; begin += kRows) {
    const int64_t count = std::min(kRows, keys.rows - begin);
    float* x = buffers[0];
    for (int64_t j = 0; j < count; ++j) {
      kernels.widen(keys.Row(begin + j), keys.element, mlp.dim(), buffers[0] + j * mlp.dim());
    }
    for (size_t i = 0; i < mlp.linears.size(); ++i) {
      const MlpLinear& linear = mlp.linears[i];
      float* const y = x == buffers[0] ? buffers[1] : buffers[0];
      if (i > 0) {
        kernels.activate(mlp.activation, x, count * linear.in);
      }
      Weights weights = PlainWeights(linear.WeightOf(head), linear.in, linear.out, linear.element);
      // Heads are mostly asked for one after the other.
      weights.next = i + 1 < mlp.linears.size() ? mlp.linears[i + 1].WeightOf(head)
                                                : mlp.linears[0].WeightOf(head + 1);
      kernels.multiply(x, count, linear.in, weights, linear.bias + head * linear.out, y,
                       linear.out);
      x = y;
    }
    take(begin, count, x);
  }
}

}  // namespace

int64_t MlpScratchFloats(const Mlp& mlp) { return 2 * kRows * WidestRow(mlp); }

void MlpOutputs(const Mlp& mlp, int64_t head, const KeyRows& keys, Isa isa, float* scratch,
                float* outputs, int64_t output_stride) {
  Forward(mlp, head, keys, isa, scratch, [&](int64_t begin, int64_t count, const float* y) {
    for (int64_t j = 0; j < count; ++j) {
      std::copy_n(y + j * mlp.bits(), mlp.bits(), outputs + (begin + j) * output_stride);
    }
  });
}

void EncodeSignatures(const Mlp& mlp, int64_t head, const KeyRows& keys, Isa isa, float* scratch,
                      int32_t* words, int64_t word_stride) {
  const RowProductKernels kernels = RowProductKernelsFor(isa);
  const int64_t bits = mlp.bits();
  Forward(mlp, head, keys, isa, scratch, [&](int64_t begin, int64_t count, const float* y) {
    for (int64_t j = 0; j < count; ++j) {
      int32_t* const row_words = words + (begin + j) * word_stride;
      for (int64_t bit = 0; bit < bits; bit += 64) {
        uint64_t signs;
        kernels.signs(y + j * bits + bit, std::min<int64_t>(64, bits - bit), false, &signs);
        row_words[bit / 32] = static_cast<int32_t>(signs);
        if (bit + 32 < bits) row_words[bit / 32 + 1] = static_cast<int32_t>(signs >> 32);
      }
    }
  });
}

}  // namespace sparse_attention::cpu
