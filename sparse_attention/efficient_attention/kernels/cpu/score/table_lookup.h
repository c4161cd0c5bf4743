// Scores that are sums of table look-ups by code: product quantisation (PQCache: a table of
// products with the centroids for each sub-vector) and soft hash collisions (Socket: a table of
// bucket probabilities for each hash table, times the norm of the key's value).
//
// With kNone and kMax a score is exactly the float32 sum in the order of the tables, as the
// research engine adds, on every instruction set (up to the sign of a zero). So is kSum, rows being
// added in their order; a mean is that sum divided by `rows`.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_TABLE_LOOKUP_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_TABLE_LOOKUP_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

constexpr int kMaxCodeBits = 20;

// Codes are the narrowest of uint8, uint16 and uint32 that holds `bits`.
constexpr int CodeBytes(int bits) { return bits <= 8 ? 1 : bits <= 16 ? 2 : 4; }

// Of the bits of a factored table, the lower ones.
constexpr int LowBits(int bits) { return (bits + 1) / 2; }
// Its floats: the entries of both halves.
constexpr int64_t HalvesFloats(int bits) {
  return (int64_t{1} << LowBits(bits)) + (int64_t{1} << (bits - LowBits(bits)));
}

// Memory: `tables` codes a key. The codes of a table lie side by side, so that new keys are written
// behind the old ones.
struct LookupProblem {
  int32_t rows;        // in [1, kMaxScoreRows]
  int32_t tables;      // >= 1
  int32_t bits;        // 2^bits entries a table, in [1, kMaxCodeBits]
  const float* table;  // [rows, tables, 2^bits], rows `row_stride` floats apart
  int64_t row_stride;
  const void* codes;  // code t of key j at codes[t * code_stride + j], each below 2^bits
  int64_t code_stride;
  const float* weights;  // [keys], finite and >= 0: times the sum; null: none
  RowReduce reduce;
  // Instead of entries `table` has [rows, tables, HalvesFloats(bits)]: 2^LowBits(bits) floats for
  // the lower bits of a code, then those for the higher ones; an entry is the product of two.
  bool factored = false;
};
constexpr int64_t TableFloats(const LookupProblem& p) {
  return p.factored ? HalvesFloats(p.bits) : int64_t{1} << p.bits;
}

struct LookupKernels {
  void (*score)(const LookupProblem&, int64_t begin, int64_t end, float* out, int64_t out_stride);

  // The sum of all rows' whole tables to merged [tables, 2^bits]: a problem with it as its only row
  // gives the sum over rows at the cost of one row. Rounding differs: with u = 2^-24, either result
  // r of a key differs from the exact one by at most
  //   (tables + rows + 1) u / (1 - (tables + rows + 1) u) * weight * (sum of all |entries| added).
  void (*merge)(const LookupProblem&, float* merged);

  // Writes the codes of `count` keys from `first` on: codes [count, tables], rows `stride` apart.
  void (*append)(const int32_t* codes, int64_t stride, int64_t count, int32_t tables, int32_t bits,
                 void* index, int64_t code_stride, int64_t first);

  // The Euclidean norms of value rows [begin, end), 0 where that is not finite, to norms[begin..].
  void (*value_norms)(const RowView& values, Element element, int32_t dim, int64_t begin,
                      int64_t end, float* norms);

  // Of how many bits `score` takes factored tables. None where whole ones are as fast.
  int least_factored_bits, most_factored_bits;
  bool TakesFactored(int bits) const {
    return least_factored_bits <= bits && bits <= most_factored_bits;
  }
};

SA_DECLARE_ISAS(LookupKernels MakeLookupKernels())

LookupKernels LookupKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_TABLE_LOOKUP_H_
