// How the value of a field is read from JSON, written, checked, compared and described: one
// specialisation of FieldValue a type. field.h adds nested configs; a library may add its own value
// type (see index_ranges.h).
//
//   static std::string Type();                      for documentation: "integer"
//   static Json Schema(const FieldRules&);          JSON Schema of the value
//   static absl::Status Read(const Json&, const std::string& path, const FieldRules&, T*);
//   static Json Write(const T&);
//   static absl::Status Check(const T&, const std::string& path, const FieldRules&);
//   static bool Equal(const T&, const T&);
//
// Read reports wrong kinds of JSON, Check reports broken rules; `path` begins every message.
#ifndef SPARSE_ATTENTION_CONFIG_FIELD_VALUE_H_
#define SPARSE_ATTENTION_CONFIG_FIELD_VALUE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

template <class T, class Enable = void>
struct FieldValue;

template <>
struct FieldValue<bool> {
  static std::string Type() { return "boolean"; }
  static Json Schema(const FieldRules&) { return {{"type", "boolean"}}; }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&, bool* out);
  static Json Write(bool value) { return value; }
  static absl::Status Check(bool, const std::string&, const FieldRules&) {
    return absl::OkStatus();
  }
  static bool Equal(bool a, bool b) { return a == b; }
};

template <>
struct FieldValue<int64_t> {
  static std::string Type() { return "integer"; }
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&,
                           int64_t* out);
  static Json Write(int64_t value) { return value; }
  static absl::Status Check(int64_t value, const std::string& path, const FieldRules& rules) {
    return CheckNumber(rules, path, static_cast<double>(value), absl::StrCat(value));
  }
  static bool Equal(int64_t a, int64_t b) { return a == b; }
};

template <>
struct FieldValue<uint64_t> {
  static std::string Type() { return "non-negative integer"; }
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&,
                           uint64_t* out);
  static Json Write(uint64_t value) { return value; }
  static absl::Status Check(uint64_t value, const std::string& path, const FieldRules& rules) {
    return CheckNumber(rules, path, static_cast<double>(value), absl::StrCat(value));
  }
  static bool Equal(uint64_t a, uint64_t b) { return a == b; }
};

template <>
struct FieldValue<double> {
  static std::string Type() { return "number"; }
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules& rules,
                           double* out);
  static Json Write(double value) { return value; }
  static absl::Status Check(double value, const std::string& path, const FieldRules& rules) {
    return CheckNumber(rules, path, value, "");
  }
  static bool Equal(double a, double b) { return a == b; }
};

template <>
struct FieldValue<std::string> {
  static std::string Type() { return "string"; }
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&,
                           std::string* out);
  static Json Write(const std::string& value) { return value; }
  static absl::Status Check(const std::string& value, const std::string& path,
                            const FieldRules& rules);
  static bool Equal(const std::string& a, const std::string& b) { return a == b; }
};

template <>
struct FieldValue<Budget> {
  static std::string Type() { return "integer (count) or float (fraction)"; }
  // JSON Schema calls 1.0 an integer; where the rules for counts and fractions differ, either may
  // hold.
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&,
                           Budget* out);
  static Json Write(const Budget& value) { return value.ToJson(); }
  static absl::Status Check(const Budget& value, const std::string& path, const FieldRules& rules) {
    return CheckBudget(rules, path, value);
  }
  static bool Equal(const Budget& a, const Budget& b) { return a == b; }
};

// A JSON object that something else interprets, such as the entry of a masker in a pipeline.
template <>
struct FieldValue<Json> {
  static std::string Type() { return "object"; }
  static Json Schema(const FieldRules&) { return {{"type", "object"}}; }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&, Json* out);
  static Json Write(const Json& value) { return value; }
  static absl::Status Check(const Json&, const std::string&, const FieldRules&) {
    return absl::OkStatus();
  }
  static bool Equal(const Json& a, const Json& b) { return JsonEquals(a, b); }
};

template <class E>
struct FieldValue<E, std::enable_if_t<std::is_enum_v<E>>> {
  static std::string Type() { return EnumChoices<E>(); }
  static Json Schema(const FieldRules&) {
    Json names = Json::array();
    for (const auto& [value, name] : EnumNames<E>::kTable) names.push_back(name);
    return {{"enum", std::move(names)}};
  }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&, E* out) {
    const std::string* name = json.get_ptr<const std::string*>();
    const std::optional<E> value = name == nullptr ? std::nullopt : EnumFromName<E>(*name);
    if (!value.has_value()) {
      return RuleError(path, absl::StrCat("must be ", EnumChoices<E>()), JsonExcerpt(json));
    }
    *out = *value;
    return absl::OkStatus();
  }
  static Json Write(E value) { return std::string(EnumName(value)); }
  static absl::Status Check(E value, const std::string& path, const FieldRules&) {
    if (!EnumName(value).empty()) return absl::OkStatus();
    return RuleError(path, absl::StrCat("must be ", EnumChoices<E>()),
                     absl::StrCat("value ", static_cast<int64_t>(value)));
  }
  static bool Equal(E a, E b) { return a == b; }
};

// null is "no value"; rules hold for a value that is present.
template <class T>
struct FieldValue<std::optional<T>> {
  static std::string Type() { return absl::StrCat(FieldValue<T>::Type(), " or null"); }
  static Json Schema(const FieldRules& rules) {
    Json choices = Json::array({FieldValue<T>::Schema(rules)});
    choices.push_back({{"type", "null"}});
    return {{"anyOf", std::move(choices)}};
  }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules& rules,
                           std::optional<T>* out) {
    out->reset();
    if (json.is_null()) return absl::OkStatus();
    return FieldValue<T>::Read(json, path, rules, &out->emplace());
  }
  static Json Write(const std::optional<T>& value) {
    return value.has_value() ? FieldValue<T>::Write(*value) : Json(nullptr);
  }
  static absl::Status Check(const std::optional<T>& value, const std::string& path,
                            const FieldRules& rules) {
    return value.has_value() ? FieldValue<T>::Check(*value, path, rules) : absl::OkStatus();
  }
  static bool Equal(const std::optional<T>& a, const std::optional<T>& b) {
    return a.has_value() == b.has_value() && (!a.has_value() || FieldValue<T>::Equal(*a, *b));
  }
};

// Rules for numbers hold for every element, NonEmpty for the list.
template <class T>
struct FieldValue<std::vector<T>> {
  static std::string Type() { return absl::StrCat("list of ", FieldValue<T>::Type()); }
  static Json Schema(const FieldRules& rules) {
    Json schema = {{"type", "array"}, {"items", FieldValue<T>::Schema(OfElement(rules))}};
    if (rules.non_empty) schema["minItems"] = 1;
    return schema;
  }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules& rules,
                           std::vector<T>* out) {
    if (!json.is_array()) return RuleError(path, "must be a list", JsonExcerpt(json));
    const FieldRules element_rules = OfElement(rules);
    out->clear();
    out->reserve(json.size());
    for (const Json& element : json) {
      T value{};
      SA_RETURN_IF_ERROR(
          FieldValue<T>::Read(element, ElementPath(path, out->size()), element_rules, &value));
      out->push_back(std::move(value));
    }
    return absl::OkStatus();
  }
  static Json Write(const std::vector<T>& value) {
    Json json = Json::array();
    for (const auto& element : value) json.push_back(FieldValue<T>::Write(element));
    return json;
  }
  static absl::Status Check(const std::vector<T>& value, const std::string& path,
                            const FieldRules& rules) {
    if (rules.non_empty && value.empty()) return RuleError(path, "must not be empty", "[]");
    const FieldRules element_rules = OfElement(rules);
    size_t index = 0;
    for (const auto& element : value) {
      SA_RETURN_IF_ERROR(FieldValue<T>::Check(element, ElementPath(path, index++), element_rules));
    }
    return absl::OkStatus();
  }
  static bool Equal(const std::vector<T>& a, const std::vector<T>& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i) {
      if (!FieldValue<T>::Equal(a[i], b[i])) return false;
    }
    return true;
  }

 private:
  static std::string ElementPath(const std::string& path, size_t index) {
    return absl::StrCat(path, "[", index, "]");
  }
  static FieldRules OfElement(FieldRules rules) {
    rules.non_empty = false;
    return rules;
  }
};

// Which rules a type understands; Field refuses others at compile time.
template <class T>
inline constexpr bool kTakesRange =
    std::is_same_v<T, double> || std::is_same_v<T, int64_t> || std::is_same_v<T, uint64_t>;
template <class T>
inline constexpr bool kTakesRange<std::optional<T>> = kTakesRange<T>;
template <class T>
inline constexpr bool kTakesRange<std::vector<T>> = kTakesRange<T>;

template <class T>
inline constexpr bool kTakesFloatOnly = std::is_same_v<T, double>;
template <class T>
inline constexpr bool kTakesFloatOnly<std::optional<T>> = kTakesFloatOnly<T>;
template <class T>
inline constexpr bool kTakesFloatOnly<std::vector<T>> = kTakesFloatOnly<T>;

template <class T>
inline constexpr bool kTakesBudgetRange = std::is_same_v<T, Budget>;
template <class T>
inline constexpr bool kTakesBudgetRange<std::optional<T>> = kTakesBudgetRange<T>;
template <class T>
inline constexpr bool kTakesBudgetRange<std::vector<T>> = kTakesBudgetRange<T>;

template <class T>
inline constexpr bool kTakesNonEmpty = std::is_same_v<T, std::string>;
template <class T>
inline constexpr bool kTakesNonEmpty<std::optional<T>> = kTakesNonEmpty<T>;
template <class T>
inline constexpr bool kTakesNonEmpty<std::vector<T>> = true;

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_FIELD_VALUE_H_
