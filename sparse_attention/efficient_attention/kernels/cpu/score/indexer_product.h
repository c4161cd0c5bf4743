// Scores of a lightning indexer, one line a query for all heads of the model:
//   score = sum over indexer heads h of gate_h * relu(q_h . k).
//
// Sums are float32, in an order that depends on the instruction set alone. With u = 2^-24,
// m = width + heads + 8 and M = sum over h of |gate_h| sum |q_h,i k_i|, a score differs from the
// exact one by at most m u / (1 - m u) M, and where products are below the normal range by
// 2^-126 m (1 + sum of |gate_h|).
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_INDEXER_PRODUCT_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_INDEXER_PRODUCT_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// Memory: `width` floats a key, behind one another.
struct IndexerProblem {
  int32_t width;         // >= 1
  int32_t heads;         // of the indexer, >= 1
  const float* queries;  // [heads, width], of one query
  const float* gates;    // [heads]
  const float* keys;     // key j at keys + j * key_stride
  int64_t key_stride;    // floats
};

struct IndexerKernels {
  // The score of key j in [begin, end) at out[j - begin].
  void (*score)(const IndexerProblem&, int64_t begin, int64_t end, float* out);
};

SA_DECLARE_ISAS(IndexerKernels MakeIndexerKernels())

IndexerKernels IndexerKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_INDEXER_PRODUCT_H_
