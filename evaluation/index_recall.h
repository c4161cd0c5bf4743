// How well a method finds the keys that matter: of the keys with the highest exact logits of each
// query, the share that the method keeps, on the queries and keys of a model that reads a text.
#ifndef EVALUATION_INDEX_RECALL_H_
#define EVALUATION_INDEX_RECALL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "adapters/huggingface/decoder_model.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// The keys that a method keeps, bool [batch, query heads, queries, keys].
using KeySelector = std::function<absl::StatusOr<at::Tensor>(const AttentionInputs&)>;

// One masker on an empty mask, with a fresh state for each layer: {"type": "oracle_top_k", ...}.
// Errors as MaskerFromJson.
absl::StatusOr<KeySelector> SelectorFromJson(const Json& masker);

struct IndexRecall {
  double recall = 0;                    // mean over layers, query heads and queries
  std::vector<double> recall_of_layer;  // mean over the rest
  double kept = 0;                      // keys kept over visible keys
};

struct RecallOptions {
  double top = 0.05;     // the keys that matter, as a share of all keys
  int64_t queries = 64;  // the last tokens of the text, measured in one step
};

// The model reads `tokens` densely; each selector sees the step of the last queries in every layer.
// InvalidArgument: not fewer queries than tokens, `top` not in (0, 1], or errors of the selector.
absl::StatusOr<std::vector<IndexRecall>> MeasureIndexRecall(
    const DecoderModel& model, absl::Span<const int32_t> tokens,
    const std::vector<KeySelector>& selectors, const RecallOptions& options = {});

}  // namespace sparse_attention

#endif  // EVALUATION_INDEX_RECALL_H_
