// JSON values: strict parsing with errors that say where, and text output that parses back to the
// same value.
//
// Stricter than the underlying library: a key that occurs twice in one object is an error, as are
// integers outside 64 bits (elsewhere silently turned into floats), numbers that overflow a double,
// NaN, Infinity, comments and nesting beyond kMaxJsonDepth. The order of members is kept. An
// integer and a float stay different through parsing and output (`1` and `1.0`), since configs read
// them as a count and a fraction.
#ifndef SPARSE_ATTENTION_CONFIG_JSON_H_
#define SPARSE_ATTENTION_CONFIG_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

using Json = nlohmann::ordered_json;

inline constexpr int kMaxJsonDepth = 64;

// Errors (InvalidArgument): "line 3, column 7: syntax error ...", "maskers[0]: duplicate key
// \"type\"". Takes time linear in the text, also for objects with hundreds of thousands of members.
absl::StatusOr<Json> ParseJson(absl::string_view text);

// As ParseJson; messages begin with the path. NotFound where there is no such file.
absl::StatusOr<Json> ReadJsonFile(const std::string& path);

// One line, or indented by `indent` spaces a level. Never throws: ill-formed UTF-8, which only a
// value made in C++ can hold, becomes U+FFFD.
std::string DumpJson(const Json& json, int indent = -1);

// For error messages: DumpJson cut to at most 80 bytes.
std::string JsonExcerpt(const Json& json);

// Equal as values of the same kind: `1` and `1.0` differ, the order of members does not matter.
bool JsonEquals(const Json& a, const Json& b);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_JSON_H_
