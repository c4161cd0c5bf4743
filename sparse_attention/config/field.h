// The field list of a config. A config is a plain struct with its defaults at the members and one
// list; JSON both ways, validation, equality, documentation and JSON Schema all come from that
// list.
//
//   struct SinkConfig {
//     static constexpr char kName[] = "sink";
//     Budget sink_size = Budget::Count(4);
//     static auto Fields() {
//       return std::tuple(Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.",
//       PositiveBudget()},
//                         IgnoredField{"search_space"});
//     }
//   };
//   StatusOr<SinkConfig> config = ConfigFromJson<SinkConfig>(*ParseJson(R"({"type": "sink",
//   "sink_size": 0.01})"));
//
// kName is the value of "type" in JSON and begins every message: "sink.sink_size must be > 0, got
// 0". A struct that is never told apart by type (a part of another config, say) declares kPath
// instead and has no "type". A config that extends another joins the lists:
// std::tuple_cat(TopKConfig::Fields(), std::tuple(...)). Rules over several fields: `absl::Status
// Validate() const` in the struct; it is called once every field is valid.
//
// Member types: bool, int64_t, uint64_t, double, std::string, Budget, Json (an object), enums with
// EnumNames, std::optional and std::vector of them, and other configs.
#ifndef SPARSE_ATTENTION_CONFIG_FIELD_H_
#define SPARSE_ATTENTION_CONFIG_FIELD_H_

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/config/field_value.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// One member of config C. Options are the rules of check.h and Required.
template <class C, class T>
struct Field {
  template <class... Options>
  Field(const char* field_name, T C::*field_member, const char* field_doc,
        const Options&... options)
      : name(field_name), member(field_member), doc(field_doc) {
    static_assert((Suits<Options>() && ...), "this rule does not apply to a field of this type");
    (rules.Add(options), ...);
  }

  const char* name;
  T C::*member;
  const char* doc;
  FieldRules rules;

 private:
  template <class Option>
  static constexpr bool Suits() {
    if constexpr (std::is_same_v<Option, Range>) return kTakesRange<T>;
    if constexpr (std::is_same_v<Option, BudgetRange>) return kTakesBudgetRange<T>;
    if constexpr (std::is_same_v<Option, FloatOnly>) return kTakesFloatOnly<T>;
    if constexpr (std::is_same_v<Option, NonEmpty>) return kTakesNonEmpty<T>;
    return true;
  }
};

// A name that is accepted with any value and dropped: the Python hub's dead parameters.
struct IgnoredField {
  const char* name;
};

struct FieldDoc {
  std::string name;
  std::string type;          // "integer (count) or float (fraction)"
  std::string default_json;  // "4"; "" for a required field
  std::string example_json;  // the value of a fresh struct, also of a required field
  std::string rule;          // "must be > 0"; "" without one
  std::string doc;
  bool required = false;
};

// `json` is an object; its member "type" may be missing. InvalidArgument:
//   sink has no field "size" (did you mean "sink_size"? fields: sink_size)
//   sink.sink_size must be an integer (count) or a float (fraction), got "many"
//   pq_cache.pq_bits is required
//   oracle_top_k.heavy_size must be > 0, got 0
template <class C>
absl::StatusOr<C> ConfigFromJson(const Json& json);

// Every field, also those at their default, in the order of the list, "type" first. For a valid
// config ConfigFromJson gives back an equal one.
template <class C>
Json ConfigToJson(const C& config);

// Checks every field in order, then the struct's own Validate().
template <class C>
absl::Status Validate(const C& config);

template <class C>
bool ConfigEquals(const C& a, const C& b);

template <class C>
std::vector<FieldDoc> DocumentFields();

// JSON Schema 2020-12 of the object.
template <class C>
Json ConfigSchema();

// Of `names` the first that begins with `name` (of three letters or more), else the one with the
// smallest edit distance, the first among equals; "" without names.
std::string NearestName(absl::string_view name, const std::vector<std::string>& names);

// ---- Implementation ----

namespace internal_field {

template <class C, class = void>
inline constexpr bool kHasFields = false;
template <class C>
inline constexpr bool kHasFields<C, std::void_t<decltype(C::Fields())>> = true;

template <class C, class = void>
inline constexpr bool kHasName = false;
template <class C>
inline constexpr bool kHasName<C, std::void_t<decltype(C::kName)>> = true;

template <class C, class = void>
inline constexpr bool kHasValidate = false;
template <class C>
inline constexpr bool kHasValidate<C, std::void_t<decltype(std::declval<const C&>().Validate())>> =
    true;

template <class C>
std::string Path() {
  if constexpr (kHasName<C>) {
    return C::kName;
  } else {
    return C::kPath;
  }
}

template <class F>
inline constexpr bool kIsIgnored = std::is_same_v<std::decay_t<F>, IgnoredField>;

// Calls visit(field) for each Field, in order, until one returns an error.
template <class C, class Visit>
absl::Status VisitFields(const Visit& visit) {
  absl::Status status;
  const auto visit_one = [&](const auto& field) {
    if constexpr (!kIsIgnored<decltype(field)>) {
      if (status.ok()) status = visit(field);
    }
  };
  std::apply([&](const auto&... fields) { (visit_one(fields), ...); }, C::Fields());
  return status;
}

template <class C, class Visit>
void ForEachField(const Visit& visit) {
  SA_CHECK_OK(VisitFields<C>([&](const auto& field) {
    visit(field);
    return absl::OkStatus();
  }));
}

// The names of the config's fields.
template <class C>
std::vector<std::string> Names() {
  std::vector<std::string> names;
  ForEachField<C>([&](const auto& field) { names.push_back(field.name); });
  return names;
}

template <class C>
std::vector<std::string> IgnoredNames() {
  std::vector<std::string> names;
  const auto visit_one = [&](const auto& field) {
    if constexpr (kIsIgnored<decltype(field)>) names.push_back(field.name);
  };
  std::apply([&](const auto&... fields) { (visit_one(fields), ...); }, C::Fields());
  return names;
}

// `json` is an object whose members are all in `names` or `ignored`; with a `type` that is not
// null, the member "type" may be there and must equal it.
absl::Status CheckMembers(const Json& json, const std::string& path, const char* type,
                          const std::vector<std::string>& names,
                          const std::vector<std::string>& ignored);

// {"title", "type": "object", "properties": ..., "required": ..., "additionalProperties": false}
Json ObjectSchema(const char* type, Json properties, const std::vector<FieldDoc>& docs,
                  const std::vector<std::string>& ignored);

template <class C>
constexpr const char* TypeOrNull() {
  if constexpr (kHasName<C>) {
    return C::kName;
  } else {
    return nullptr;
  }
}

template <class C>
absl::Status ReadAt(const Json& json, const std::string& path, C* config) {
  SA_RETURN_IF_ERROR(CheckMembers(json, path, TypeOrNull<C>(), Names<C>(), IgnoredNames<C>()));
  return VisitFields<C>([&](const auto& field) -> absl::Status {
    const std::string field_path = absl::StrCat(path, ".", field.name);
    const auto member = json.find(field.name);
    if (member == json.end()) {
      if (!field.rules.required) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(field_path, " is required"));
    }
    auto& value = config->*field.member;
    return FieldValue<std::decay_t<decltype(value)>>::Read(*member, field_path, field.rules,
                                                           &value);
  });
}

template <class C>
absl::Status ValidateAt(const C& config, const std::string& path) {
  SA_RETURN_IF_ERROR(VisitFields<C>([&](const auto& field) {
    const auto& value = config.*field.member;
    return FieldValue<std::decay_t<decltype(value)>>::Check(
        value, absl::StrCat(path, ".", field.name), field.rules);
  }));
  if constexpr (kHasValidate<C>) return Annotate(config.Validate(), path);
  return absl::OkStatus();
}

}  // namespace internal_field

// A config inside another: paths go on ("outer.inner.field"), "type" is written where it has one.
template <class C>
struct FieldValue<C, std::enable_if_t<internal_field::kHasFields<C>>> {
  static std::string Type() { return internal_field::Path<C>(); }
  static Json Schema(const FieldRules&) { return ConfigSchema<C>(); }
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&, C* out) {
    return internal_field::ReadAt(json, path, out);
  }
  static Json Write(const C& value) { return ConfigToJson(value); }
  static absl::Status Check(const C& value, const std::string& path, const FieldRules&) {
    return internal_field::ValidateAt(value, path);
  }
  static bool Equal(const C& a, const C& b) { return ConfigEquals(a, b); }
};

template <class C>
absl::StatusOr<C> ConfigFromJson(const Json& json) {
  C config;
  SA_RETURN_IF_ERROR(internal_field::ReadAt(json, internal_field::Path<C>(), &config));
  SA_RETURN_IF_ERROR(Validate(config));
  return config;
}

template <class C>
Json ConfigToJson(const C& config) {
  Json json = Json::object();
  if constexpr (internal_field::kHasName<C>) json["type"] = C::kName;
  internal_field::ForEachField<C>([&](const auto& field) {
    const auto& value = config.*field.member;
    json[field.name] = FieldValue<std::decay_t<decltype(value)>>::Write(value);
  });
  return json;
}

template <class C>
absl::Status Validate(const C& config) {
  return internal_field::ValidateAt(config, internal_field::Path<C>());
}

template <class C>
bool ConfigEquals(const C& a, const C& b) {
  bool equal = true;
  internal_field::ForEachField<C>([&](const auto& field) {
    using Value = std::decay_t<decltype(a.*field.member)>;
    equal = equal && FieldValue<Value>::Equal(a.*field.member, b.*field.member);
  });
  return equal;
}

template <class C>
std::vector<FieldDoc> DocumentFields() {
  const C defaults;
  std::vector<FieldDoc> docs;
  internal_field::ForEachField<C>([&](const auto& field) {
    const auto& value = defaults.*field.member;
    using Value = std::decay_t<decltype(value)>;
    const bool required = field.rules.required;
    const std::string json = DumpJson(FieldValue<Value>::Write(value));
    docs.push_back({field.name, FieldValue<Value>::Type(), required ? "" : json, json,
                    field.rules.Text(), field.doc, required});
  });
  return docs;
}

template <class C>
Json ConfigSchema() {
  const C defaults;
  Json properties = Json::object();
  internal_field::ForEachField<C>([&](const auto& field) {
    const auto& value = defaults.*field.member;
    using Value = std::decay_t<decltype(value)>;
    Json schema = FieldValue<Value>::Schema(field.rules);
    if (!field.rules.required) schema["default"] = FieldValue<Value>::Write(value);
    schema["description"] = field.doc;
    properties[field.name] = std::move(schema);
  });
  return internal_field::ObjectSchema(internal_field::TypeOrNull<C>(), std::move(properties),
                                      DocumentFields<C>(), internal_field::IgnoredNames<C>());
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_FIELD_H_
