// The small MLPs of HashAttention and the bit signatures of their outputs, without LibTorch.
// bit_signature.h says what they mean.
#ifndef SPARSE_ATTENTION_KEY_INDEX_MLP_H_
#define SPARSE_ATTENTION_KEY_INDEX_MLP_H_

#include <cstdint>
#include <span>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/key_rows.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {

// One linear map of all heads: x . weight + bias.
struct MlpLinear {
  const void* weight = nullptr;  // [heads][in][out]
  const float* bias = nullptr;   // [heads][out]
  int64_t in = 0, out = 0;
  Element element = Element::kFloat32;  // of `weight`

  const char* WeightOf(int64_t head) const {
    return static_cast<const char*>(weight) + head * in * out * ElementBytes(element);
  }
};

// The activation stands between two linear maps, none behind the last.
struct Mlp {
  std::span<const MlpLinear> linears;  // at least one
  RowActivation activation = RowActivation::kSilu;

  int64_t dim() const { return linears.front().in; }
  int64_t bits() const { return linears.back().out; }
};

constexpr int64_t kSignatureBits = 32;  // of a word
constexpr int64_t SignatureWords(int64_t bits) {
  return (bits + kSignatureBits - 1) / kSignatureBits;
}

// Floats of scratch that the functions below need, whatever the number of rows.
int64_t MlpScratchFloats(const Mlp& mlp);

// The outputs of one head for keys of dim mlp.dim(): row j at outputs + j * output_stride, [bits].
void MlpOutputs(const Mlp& mlp, int64_t head, const KeyRows& keys, Isa isa, float* scratch,
                float* outputs, int64_t output_stride);

// Bit i is 1 where output i is above 0, 32 bits a word, lowest first: row j's words at words + j *
// word_stride.
void EncodeSignatures(const Mlp& mlp, int64_t head, const KeyRows& keys, Isa isa, float* scratch,
                      int32_t* words, int64_t word_stride);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_MLP_H_
