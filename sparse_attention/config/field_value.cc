#include "sparse_attention/config/field_value.h"

#include <limits>

namespace sparse_attention {
namespace {

Json NumberSchema(const char* type, const FieldRules& rules) {
  Json schema = {{"type", type}};
  if (rules.range.has_value()) rules.range->AddToSchema(&schema);
  return schema;
}

}  // namespace

absl::Status FieldValue<bool>::Read(const Json& json, const std::string& path, const FieldRules&,
                                    bool* out) {
  if (!json.is_boolean()) return RuleError(path, "must be true or false", JsonExcerpt(json));
  *out = json.get<bool>();
  return absl::OkStatus();
}

Json FieldValue<int64_t>::Schema(const FieldRules& rules) { return NumberSchema("integer", rules); }

absl::Status FieldValue<int64_t>::Read(const Json& json, const std::string& path, const FieldRules&,
                                       int64_t* out) {
  if (!json.is_number_integer()) return RuleError(path, "must be an integer", JsonExcerpt(json));
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return RuleError(path, "must fit in a signed 64-bit integer", JsonExcerpt(json));
  }
  *out = json.get<int64_t>();
  return absl::OkStatus();
}

Json FieldValue<uint64_t>::Schema(const FieldRules& rules) {
  Json schema = {{"type", "integer"}, {"minimum", 0}};
  if (rules.range.has_value()) rules.range->AddToSchema(&schema);
  return schema;
}

absl::Status FieldValue<uint64_t>::Read(const Json& json, const std::string& path,
                                        const FieldRules&, uint64_t* out) {
  const bool negative =
      json.is_number_integer() && !json.is_number_unsigned() && json.get<int64_t>() < 0;
  if (!json.is_number_integer() || negative) {
    return RuleError(path, "must be a non-negative integer", JsonExcerpt(json));
  }
  *out = json.get<uint64_t>();
  return absl::OkStatus();
}

Json FieldValue<double>::Schema(const FieldRules& rules) { return NumberSchema("number", rules); }

absl::Status FieldValue<double>::Read(const Json& json, const std::string& path,
                                      const FieldRules& rules, double* out) {
  if (rules.float_only ? !json.is_number_float() : !json.is_number()) {
    return RuleError(path, rules.float_only ? "must be a float" : "must be a number",
                     JsonExcerpt(json));
  }
  *out = json.get<double>();
  return absl::OkStatus();
}

Json FieldValue<std::string>::Schema(const FieldRules& rules) {
  Json schema = {{"type", "string"}};
  if (rules.non_empty) schema["minLength"] = 1;
  return schema;
}

absl::Status FieldValue<std::string>::Read(const Json& json, const std::string& path,
                                           const FieldRules&, std::string* out) {
  if (!json.is_string()) return RuleError(path, "must be a string", JsonExcerpt(json));
  *out = json.get<std::string>();
  return absl::OkStatus();
}

absl::Status FieldValue<std::string>::Check(const std::string& value, const std::string& path,
                                            const FieldRules& rules) {
  if (rules.non_empty && value.empty()) return RuleError(path, "must not be empty", "\"\"");
  return absl::OkStatus();
}

Json FieldValue<Budget>::Schema(const FieldRules& rules) {
  if (!rules.budget_range.has_value()) return {{"type", "number"}};
  Json count = {{"type", "integer"}};
  rules.budget_range->count.AddToSchema(&count);
  Json fraction = {{"type", "number"}};
  rules.budget_range->fraction.AddToSchema(&fraction);
  if (rules.budget_range->count.rule == rules.budget_range->fraction.rule) return fraction;
  return {{"anyOf", Json::array({std::move(count), std::move(fraction)})}};
}

absl::Status FieldValue<Budget>::Read(const Json& json, const std::string& path, const FieldRules&,
                                      Budget* out) {
  absl::StatusOr<Budget> budget = Budget::FromJson(json);
  if (!budget.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " ", budget.status().message()));
  }
  *out = *budget;
  return absl::OkStatus();
}

absl::Status FieldValue<Json>::Read(const Json& json, const std::string& path, const FieldRules&,
                                    Json* out) {
  if (!json.is_object()) return RuleError(path, "must be an object", JsonExcerpt(json));
  *out = json;
  return absl::OkStatus();
}

}  // namespace sparse_attention
