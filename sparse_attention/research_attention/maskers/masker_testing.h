// Inputs and shorthands for the tests of maskers.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_TESTING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

struct TestShape {
  int64_t batch = 1;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t queries = 2;
  int64_t keys = 24;
  int64_t dim = 8;
};

// Standard normal q, k, v on the host; the same seed gives the same tensors everywhere.
AttentionInputs RandomInputs(const TestShape& shape, uint64_t seed = 1,
                             at::ScalarType type = at::kFloat);

// The same in a layer of its own for each (heads, KV heads, dim), so that one file of weights can
// serve tests of all shapes.
int64_t LayerOfShape(const TestShape& shape);
AttentionInputs LayeredInputs(const TestShape& shape, uint64_t seed = 1,
                              at::ScalarType type = at::kFloat);

// Inputs with one head and channel whose logits are exactly `logits`, one row of `logits` a query,
// and whose values are the key positions.
AttentionInputs InputsWithLogits(const std::vector<std::vector<float>>& logits);

// The active keys of one row, ascending.
std::vector<int64_t> ActiveKeys(const Mask& mask, int64_t batch, int64_t head, int64_t query);

// One row as text: "1" certain, "s" sampled (weight below 1), "." not selected.
std::string MaskRow(const Mask& mask, int64_t batch, int64_t head, int64_t query);

// A mask of one batch and head from such rows, one a query; "s" becomes weight 0.25.
Mask MaskFromRows(const std::vector<std::string>& rows);

// Parses JSON that is known to be right.
Json ParsedJson(absl::string_view text);

// A masker from a config that is known to be right.
template <typename M>
std::unique_ptr<Masker> MakeMasker(absl::string_view json, const MaskerOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<Masker>> masker = CreateMasker<M>(ParsedJson(json), options);
  SA_CHECK_OK(masker);
  return *std::move(masker);
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_TESTING_H_
