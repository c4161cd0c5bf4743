// JSON files of a checkpoint folder: bounded, strict parsing and typed fields with ranges.
//
// Errors are InvalidArgument without the file's name; the caller adds it.
#ifndef ADAPTERS_HUGGINGFACE_CHECKPOINT_JSON_H_
#define ADAPTERS_HUGGINGFACE_CHECKPOINT_JSON_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace sparse_attention {

// The content of a regular file of at most `max_bytes`. NotFound if there is none.
absl::StatusOr<std::string> ReadBoundedFile(const std::string& path, size_t max_bytes);

// Parses an object. A key that repeats, at any depth, is an error, as is nesting deeper than 64.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text);

// A value as it stands in an error message: its JSON text, shortened.
std::string JsonExcerpt(const nlohmann::json& value);

// Reads fields of one object. A field that is null counts as absent. `prefix` ("" or
// "rope_parameters.") stands before the names in messages.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {}

  // Null if absent.
  const nlohmann::json* Find(absl::string_view name) const;
  // Whether the name is there at all, even as null.
  bool Mentions(absl::string_view name) const;

  // Each returns nullopt if absent.
  absl::StatusOr<std::optional<int64_t>> Int(absl::string_view name, int64_t min,
                                             int64_t max) const;
  // Finite; `min` itself is allowed.
  absl::StatusOr<std::optional<double>> Number(
      absl::string_view name, double min, double max = std::numeric_limits<double>::max()) const;
  absl::StatusOr<std::optional<bool>> Bool(absl::string_view name) const;
  absl::StatusOr<std::optional<std::string>> String(absl::string_view name) const;
  // One integer or a list of integers.
  absl::StatusOr<std::optional<std::vector<int64_t>>> IntOrList(absl::string_view name, int64_t min,
                                                                int64_t max) const;

  // "num_heads must be > 0, got -3"
  absl::Status Wrong(absl::string_view name, absl::string_view rule,
                     const nlohmann::json& seen) const;
  absl::Status Missing(absl::string_view name) const;

 private:
  absl::StatusOr<int64_t> CheckInt(absl::string_view name, const nlohmann::json& value, int64_t min,
                                   int64_t max) const;

  const nlohmann::json& object_;
  std::string prefix_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_CHECKPOINT_JSON_H_
