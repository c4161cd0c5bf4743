// The sections of tokenizer.json beside model and added tokens, and the helpers that both parsers
// share.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_PIPELINE_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_PIPELINE_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "adapters/huggingface/tokenizer_json.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status.h"

namespace sparse_attention::internal_tokenizer_json {

// Leaves room for a size that is the largest id plus one.
inline constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

// UNIMPLEMENTED "<what> is not supported (supported: <supported>)".
absl::Status NotSupported(absl::string_view what, absl::string_view supported);

// For values that the format requires; JsonFields alone treats them as optional.
template <typename T>
absl::StatusOr<T> Required(absl::StatusOr<std::optional<T>> value, const JsonFields& fields,
                           absl::string_view name) {
  SA_RETURN_IF_ERROR(value.status());
  if (!value->has_value()) return fields.Missing(name);
  return **std::move(value);
}

absl::StatusOr<bool> BoolOr(const JsonFields& fields, absl::string_view name, bool absent);

// Each reads its section of the file's root object.
absl::Status ParseNormalizer(const nlohmann::json& root, TokenizerSpec& spec);
absl::Status ParsePreTokenizer(const nlohmann::json& root, TokenizerSpec& spec);
absl::Status ParsePostProcessor(const nlohmann::json& root, TokenizerSpec& spec);
// Only one decoder is supported, so there is nothing to keep.
absl::Status CheckDecoder(const nlohmann::json& root);

}  // namespace sparse_attention::internal_tokenizer_json

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_PIPELINE_H_
