// Candidates of MagicPIG: keys that share a hash bucket with a query in at least one table.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BUCKET_MATCH_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BUCKET_MATCH_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

// Buckets are the narrowest of uint8, uint16, uint32 and uint64 that holds the planes of a table.
constexpr int BucketBytes(int bits) { return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : 8; }

// Memory: `tables` buckets a key. The buckets of a table lie side by side, so that new keys are
// written behind the old ones.
struct BucketMatchProblem {
  int32_t rows;         // in [1, kMaxScoreRows]
  int32_t tables;       // >= 1
  int32_t bits;         // planes of a table, in [1, 64]
  const void* queries;  // [rows, tables] buckets
  const void* buckets;  // bucket t of key j at buckets[t * stride + j]
  int64_t stride;
};

constexpr int64_t MatchWords(int64_t keys) { return (keys + 63) / 64; }

struct BucketMatchKernels {
  // Bit (j - begin) % 64 of word (j - begin) / 64 of a row is 1 where the row shares a bucket with
  // key j: MatchWords(end - begin) words a row, `out_stride` apart. Bits behind the last key are 0.
  void (*match)(const BucketMatchProblem&, int64_t begin, int64_t end, uint64_t* out,
                int64_t out_stride);
};

SA_DECLARE_ISAS(BucketMatchKernels MakeBucketMatchKernels())

BucketMatchKernels BucketMatchKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_BUCKET_MATCH_H_
