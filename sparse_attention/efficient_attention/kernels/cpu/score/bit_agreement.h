// Scores of HashAttention: in how many bits the signatures of a query and a key agree.
//
// The research engine's score of a row is agreeing less disagreeing bits, 2 * a - bits for an
// agreement of a bits. It grows with a, as its maximum over the rows grows with their largest a,
// and its sum and mean with their sum of a: selecting by agreement selects the same keys, ties
// included. To the score itself: kNone and kMax: 2 * out - bits; kSum: 2 * out - rows * bits;
// kMean: that over rows (out is the sum).
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BIT_AGREEMENT_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BIT_AGREEMENT_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

constexpr int kMaxSignatureBits = 2048;
constexpr int SignatureWords(int bits) { return (bits + 31) / 32; }

// Bit i of a signature is bit i % 32 of word i / 32; bits behind the last are 0. Memory: 4 bytes a
// key and word. Words lie apart, so that new keys are written behind the old ones.
struct BitAgreementProblem {
  int32_t bits;             // in [1, kMaxSignatureBits]
  int32_t rows;             // in [1, kMaxScoreRows]
  const uint32_t* queries;  // [rows, SignatureWords(bits)]
  const uint32_t* keys;     // word w of key j at keys[w * word_stride + j]
  int64_t word_stride;
  RowReduce reduce;
};

// The largest number that may come out: up to 255 score8 holds it, score16 always does.
constexpr int MostAgreement(int bits, int rows, RowReduce reduce) {
  return reduce == RowReduce::kSum || reduce == RowReduce::kMean ? bits * rows : bits;
}

struct BitAgreementKernels {
  void (*score8)(const BitAgreementProblem&, int64_t begin, int64_t end, uint8_t* out,
                 int64_t out_stride);
  void (*score16)(const BitAgreementProblem&, int64_t begin, int64_t end, uint16_t* out,
                  int64_t out_stride);
  // The signatures of `count` keys from `first` on: bit i is 1 where output i of a key is above 0.
  // outputs: `bits` floats a key, `output_stride` apart.
  void (*pack)(const float* outputs, int64_t output_stride, int64_t count, int32_t bits,
               uint32_t* keys, int64_t word_stride, int64_t first);
};

SA_DECLARE_ISAS(BitAgreementKernels MakeBitAgreementKernels())

BitAgreementKernels BitAgreementKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BIT_AGREEMENT_H_
