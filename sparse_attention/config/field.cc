#include "sparse_attention/config/field.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"

namespace sparse_attention {
namespace {

// Levenshtein's distance in bytes.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substitute = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({row[j] + 1, row[j + 1] + 1, substitute}));
    }
  }
  return row.back();
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status UnknownField(const std::string& path, const std::string& name,
                          const std::vector<std::string>& names) {
  const std::string hint = names.empty() ? "it has no fields"
                                         : absl::StrCat("did you mean \"", NearestName(name, names),
                                                        "\"? fields: ", absl::StrJoin(names, ", "));
  return absl::InvalidArgumentError(
      absl::StrCat(path, " has no field ", JsonExcerpt(name), " (", hint, ")"));
}

}  // namespace

std::string NearestName(absl::string_view name, const std::vector<std::string>& names) {
  // Quadratic in the length, and no field name is longer.
  name = name.substr(0, 100);
  // A name cut short ("quest" for "quest_top_k") is meant more likely than any other.
  if (name.size() >= 3) {
    for (const std::string& candidate : names) {
      if (absl::StartsWith(candidate, name)) return candidate;
    }
  }
  std::string nearest;
  size_t least = std::string::npos;
  for (const std::string& candidate : names) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

namespace internal_field {

absl::Status CheckMembers(const Json& json, const std::string& path, const char* type,
                          const std::vector<std::string>& names,
                          const std::vector<std::string>& ignored) {
  if (!json.is_object()) return RuleError(path, "must be an object", JsonExcerpt(json));
  for (const auto& [name, value] : json.items()) {
    if (type != nullptr && name == "type") {
      if (value != type) {
        return RuleError(path, absl::StrCat("must have the type \"", type, "\""),
                         JsonExcerpt(value));
      }
    } else if (!Contains(names, name) && !Contains(ignored, name)) {
      return UnknownField(path, name, names);
    }
  }
  return absl::OkStatus();
}

Json ObjectSchema(const char* type, Json properties, const std::vector<FieldDoc>& docs,
                  const std::vector<std::string>& ignored) {
  Json schema = Json::object();
  if (type != nullptr) schema["title"] = type;
  schema["type"] = "object";
  Json& all = schema["properties"] = Json::object();
  if (type != nullptr) all["type"] = {{"const", type}};
  all.update(properties);
  for (const std::string& name : ignored) {
    all[name] = {{"description", "Accepted and ignored."}, {"deprecated", true}};
  }
  Json required = Json::array();
  for (const FieldDoc& doc : docs) {
    if (doc.required) required.push_back(doc.name);
  }
  if (!required.empty()) schema["required"] = std::move(required);
  schema["additionalProperties"] = false;
  return schema;
}

}  // namespace internal_field
}  // namespace sparse_attention
