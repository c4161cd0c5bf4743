// Scores of DoubleSparsity: products of a query with a key over a few channels, "labels", of both
// of which only quantised values are known.
//
// A key's labels are x_c = code_c / scale + low, kept as step = 1 / scale and low, a query's the
// same with codes in a range of their own; a score is sum over channels of q_c x_c /
// sqrt(channels). With codes of up to 8 bits
//   score = step * (a * D + b * S) + c * low,  D = sum of (q code - s) * code,  S = sum of codes,
// D and S being exact integers, s = 128 for 8 bits and else 0, a = 1 / (q scale sqrt(channels)),
// b = (q low + s / q scale) / sqrt(channels), c = sum of q_c / sqrt(channels).
// With u = 2^-24 it differs from the exact value by at most
//   g(8) (step (|a D| + |b| S) + |c low|),  g(k) = k u / (1 - k u),
// with more bits, where sums are float32, by at most
//   g(channels + 8) (step * sum of |q_c| code_c / sqrt(channels) + |c low|),
// and unquantised by g(channels + 8) * sum of |q_c x_c| / sqrt(channels). Besides, numbers below
// the normal range may lose 2^-126 each. A maximum over rows differs by the largest of these; a sum
// and a mean by their sum and mean with k + rows for k.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LABEL_PRODUCT_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LABEL_PRODUCT_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

// Labels lie in words, word w of key j at labels[w * label_stride + j]:
//   label_bits 1 to 4:  uint32, channels 8 w + i and 8 w + 4 + i in the lower and upper half of
//   byte
//                       i
//   5 to 8:             uint32, channel 4 w + i in byte i
//   9 to 15:            uint16, channel w
//   16:                 elements of the keys' type, channel w: not quantised
// with zeros behind the last channel. Memory a key: the words and, quantised, two floats.
constexpr int LabelWords(int channels, int label_bits) {
  return label_bits <= 4 ? (channels + 7) / 8 : label_bits <= 8 ? (channels + 3) / 4 : channels;
}
constexpr int LabelWordBytes(Element element, int label_bits) {
  return label_bits <= 8 ? 4 : label_bits <= 15 ? 2 : static_cast<int>(ElementBytes(element));
}

struct LabelProblem {
  Element element;      // of queries and keys
  int32_t channels;     // >= 1
  int32_t label_bits;   // in [1, 16]
  int32_t rows;         // in [1, kMaxScoreRows]
  const void* queries;  // from prepare
  const void* labels;
  int64_t label_stride;  // words
  const float* step;     // [keys], where quantised
  const float* low;      // [keys], where quantised
  RowReduce reduce;
};

// Bytes that prepare writes.
constexpr int64_t LabelQueryBytes(int32_t channels, int32_t rows) {
  return int64_t{rows} * (16 + 4 * ((int64_t{channels} + 7) / 8 * 8));
}

struct LabelKernels {
  // What `score` of the same instruction set reads of the queries, to be made once for all keys:
  // queries [rows, dim], `stride` bytes apart, of which row r counts channels
  // channel_list[r * channel_stride ..]: [channels]. `prepared` is aligned to 4 bytes. Reads
  // neither problem.queries nor the labels.
  void (*prepare)(const LabelProblem& problem, const void* queries, int64_t stride,
                  const int32_t* channel_list, int64_t channel_stride, void* prepared);
  void (*score)(const LabelProblem&, int64_t begin, int64_t end, float* out, int64_t out_stride);
  // Writes labels, step and low of keys [begin, end), quantised as the research engine does: halves
  // to even; of a key with a channel that is not a number the codes are 0 and low is NaN.
  void (*append)(const RowView& keys, Element element, const int32_t* channel_list,
                 int32_t channels, int32_t label_bits, int64_t begin, int64_t end, void* labels,
                 int64_t label_stride, float* step, float* low);
};

SA_DECLARE_ISAS(LabelKernels MakeLabelKernels())

LabelKernels LabelKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_LABEL_PRODUCT_H_
