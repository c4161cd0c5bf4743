// What the scoring kernels of this folder have in common.
//
// A call scores keys [begin, end) of one (sequence, set) for `rows` query rows that share the keys,
// and puts the score of key j at out[j - begin]: one line of scores a row, `out_stride` apart, or,
// reduced over the rows, a single one. The index is read once whatever the number of rows. Calls
// are made for blocks of about 2,048 keys, so that scores stay in the caches. Nothing outside
// [begin, end) is read and nothing outside the scores is written, and results do not depend on how
// [begin, end) is cut.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_REDUCE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_REDUCE_H_

#include <cstdint>

namespace sparse_attention::cpu {

constexpr int kMaxScoreRows = 16;

// All rows take part in a reduction: where a row must not see a key that others see, ask for the
// rows one by one. A maximum is NaN where a score of any row is; a mean is the sum over `rows`.
enum class RowReduce : int32_t { kNone, kMax, kSum, kMean };

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_REDUCE_H_
