// CostRule: when reading all rows in order is faster than gathering those that are wanted.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_

#include <cstdint>
#include <limits>

#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/step.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// A gather of scattered rows reaches a share of the bandwidth of a stream; above that share of rows
// the stream wins, though it reads rows that nobody wants. Both give the same numbers but for
// rounding.
struct GatherShares {
  double rows = 0.6;   // of single rows
  double pages = 0.7;  // of runs of neighbours, as pages of 16
};

struct CostRule {
  GatherShares shares;
  // What was measured holds for sequences of so many keys and more, which no cache keeps. It goes
  // by a sequence's own length, so that a batch changes no result.
  GatherShares measured;
  int64_t measured_from = std::numeric_limits<int64_t>::max();

  // `wanted` of `open` keys, in `runs` runs of neighbours, in a sequence of `keys` keys.
  bool ReadsInOrder(int64_t wanted, int64_t runs, int64_t open, int64_t keys) const {
    constexpr int64_t kRunKeys = 8;  // on average: far more than single rows have by chance
    const GatherShares& these = keys < measured_from ? shares : measured;
    const double share = wanted >= kRunKeys * runs ? these.pages : these.rows;
    return static_cast<double>(wanted) > share * static_cast<double>(open);
  }
};

// The rule for a plan. The environment variable SA_GATHER_SHARE fixes all shares. Otherwise, where
// the keys and values of a sequence of `capacity` keys exceed the caches, they are measured: once a
// process for rows of a kind and a number of threads. InvalidArgument: SA_GATHER_SHARE is not a
// number in [0, 1].
absl::StatusOr<CostRule> CostRuleFor(const LayerShape& shape, int64_t capacity, int threads,
                                     Isa isa);

// The measurement: the attention kernels on rows of this shape, in order and gathered, out of
// memory, by `threads` threads at once; at most 48 MB and some 20 ms. In [0.25, 0.7].
GatherShares MeasureGatherShares(const LayerShape& shape, int threads, Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_
