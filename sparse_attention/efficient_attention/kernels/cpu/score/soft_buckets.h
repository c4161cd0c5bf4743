// The tables of Socket: for every hash table, how likely a query lies in each of its buckets. Bit p
// of a bucket is 1 with probability 1 / (1 + exp(-2 a_p)), a_p = scale tanh(q . plane p).
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SOFT_BUCKETS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SOFT_BUCKETS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

namespace sparse_attention::cpu {

struct SoftBucketKernels {
  // Of the products `sides` [count, bits] with the planes of `count` tables, the lowest bit's
  // first, factored tables (LookupProblem): halves [count, HalvesFloats(bits)]. With u = 2^-24 an
  // entry, the product of two, differs from that of exact arithmetic by at most bits (16 + 6 scale)
  // u of itself.
  void (*halves)(const float* sides, int64_t count, int bits, float scale, float* halves);
  // Their entries, [count, 2^bits].
  void (*expand)(const float* halves, int64_t count, int bits, float* table);
  // The sums over rows of the entries of halves [rows, count, HalvesFloats(bits)], [count, 2^bits].
  void (*expand_sum)(const float* halves, int rows, int64_t count, int bits, float* table);
};

SA_DECLARE_ISAS(SoftBucketKernels MakeSoftBucketKernels())

SoftBucketKernels SoftBucketKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SOFT_BUCKETS_H_
