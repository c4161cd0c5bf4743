// What samplers share: host copies of a step's rows, and the loop over (sequence, heads that share
// draws, query).
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLING_ROWS_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLING_ROWS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// The rows that share one set of draws: the query heads of a group, or a single head.
struct SamplingRow {
  int64_t batch = 0;
  int64_t first_head = 0;
  int64_t heads = 1;
  int64_t query = 0;
  int64_t draw_head =
      0;  // the head in the random counter: the query head, or the KV head of a group
  // Keys that are visible and that at least one of the heads does not hold yet, ascending.
  std::vector<int64_t> candidates;
};

// The keys of a row that sampling may touch, [begin, end).
using KeyRange = std::function<std::pair<int64_t, int64_t>(int64_t query)>;

// Calls `visit` for every row. `eligible` is bool [batch, heads, queries, keys] on the host.
void ForEachSamplingRow(const AttentionInputs& inputs, const at::Tensor& eligible,
                        Selection selection, const KeyRange& range,
                        const std::function<void(const SamplingRow&)>& visit);

// The stream of a row: a pure function of seed, purpose, layer, head or group, and absolute query
// position.
PhiloxStream RowStream(const AttentionInputs& inputs, const SamplingRow& row, uint64_t seed,
                       RandomPurpose purpose);

// Sets `weight` at `keys` for every head of the row that is eligible there. `weights` is float32
// [batch, heads, queries, keys] on the host.
void SetSampledWeights(const SamplingRow& row, const std::vector<int64_t>& keys, float weight,
                       const at::Tensor& eligible, at::Tensor& weights);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLING_ROWS_H_
