#include "adapters/huggingface/tokenizer_json_pipeline.h"

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sparse_attention::internal_tokenizer_json {
namespace {

using Json = nlohmann::json;

// The object's "type"; `path` names the object.
absl::StatusOr<std::string> TypeOf(const Json& object, const std::string& path) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " must be an object, got ", JsonExcerpt(object)));
  }
  const JsonFields fields(object, absl::StrCat(path, "."));
  return Required(fields.String("type"), fields, "type");
}

// A component and its path; a Sequence counts as its members, in order.
struct Component {
  const Json* json;
  std::string path;
  std::string type;
};

absl::Status Flatten(const Json& json, const std::string& path, absl::string_view members_name,
                     std::vector<Component>& components) {
  SA_ASSIGN_OR_RETURN(std::string type, TypeOf(json, path));
  if (type != "Sequence") {
    components.push_back({&json, path, std::move(type)});
    return absl::OkStatus();
  }
  const JsonFields fields(json, absl::StrCat(path, "."));
  const Json* const members = fields.Find(members_name);
  if (members == nullptr) return fields.Missing(members_name);
  if (!members->is_array()) return fields.Wrong(members_name, "must be a list", *members);
  for (size_t i = 0; i < members->size(); ++i) {
    SA_RETURN_IF_ERROR(Flatten((*members)[i], absl::StrCat(path, ".", members_name, "[", i, "]"),
                               members_name, components));
  }
  return absl::OkStatus();
}

// The components of a section of the file; none if it is null or absent.
absl::StatusOr<std::vector<Component>> Section(const Json& root, const std::string& name,
                                               absl::string_view members_name) {
  std::vector<Component> components;
  if (const Json* const json = JsonFields(root, "").Find(name); json != nullptr) {
    SA_RETURN_IF_ERROR(Flatten(*json, name, members_name, components));
  }
  return components;
}

absl::Status UnsupportedType(const Component& component, absl::string_view supported) {
  return NotSupported(absl::StrCat(component.path, ": type \"", component.type, "\""), supported);
}

absl::StatusOr<SplitBehavior> ParseBehavior(const JsonFields& fields) {
  static constexpr std::pair<absl::string_view, SplitBehavior> kBehaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  SA_ASSIGN_OR_RETURN(const std::string name,
                      Required(fields.String("behavior"), fields, "behavior"));
  for (const auto& [known, behavior] : kBehaviors) {
    if (name == known) return behavior;
  }
  return fields.Wrong("behavior",
                      "must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                      Json(name));
}

absl::StatusOr<PreTokenizerStep> ParseSplit(const Component& component) {
  const JsonFields fields(*component.json, absl::StrCat(component.path, "."));
  PreTokenizerStep step;
  const Json* const pattern = fields.Find("pattern");
  if (pattern == nullptr) return fields.Missing("pattern");
  const bool is_regex = pattern->is_object() && pattern->contains("Regex");
  const std::string key = is_regex ? "Regex" : "String";
  if (!pattern->is_object() || pattern->size() != 1 || !pattern->contains(key) ||
      !(*pattern)[key].is_string() || (*pattern)[key] == "") {
    return fields.Wrong(
        "pattern", "must be {\"Regex\": text} or {\"String\": text}, text not empty", *pattern);
  }
  step.kind = is_regex ? PreTokenizerStep::Kind::kRegex : PreTokenizerStep::Kind::kLiteral;
  step.pattern = (*pattern)[key].get<std::string>();
  SA_ASSIGN_OR_RETURN(step.behavior, ParseBehavior(fields));
  SA_ASSIGN_OR_RETURN(step.invert, BoolOr(fields, "invert", false));
  return step;
}

// The ids that TemplateProcessing.special_tokens gives for a token of the template.
absl::StatusOr<std::vector<int32_t>> TemplateIds(const JsonFields& fields,
                                                 const std::string& token) {
  const Json* const tokens = fields.Find("special_tokens");
  if (tokens == nullptr) return fields.Missing("special_tokens");
  if (!tokens->is_object() || !tokens->contains(token) || !(*tokens)[token].is_object()) {
    return fields.Wrong("special_tokens", absl::StrCat("must describe \"", token, "\""), *tokens);
  }
  const JsonFields entry((*tokens)[token], absl::StrCat("special_tokens[\"", token, "\"]."));
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                      Required(entry.IntOrList("ids", 0, kMaxId), entry, "ids"));
  return std::vector<int32_t>(ids.begin(), ids.end());
}

absl::Status ParseTemplate(const Component& component, TokenizerSpec& spec) {
  const JsonFields fields(*component.json, absl::StrCat(component.path, "."));
  const Json* const single = fields.Find("single");
  if (single == nullptr) return fields.Missing("single");
  if (!single->is_array()) return fields.Wrong("single", "must be a list", *single);
  std::vector<int32_t> before, after;
  bool text_seen = false;
  for (const Json& piece : *single) {
    const bool is_token = piece.is_object() && piece.contains("SpecialToken");
    const std::string kind = is_token ? "SpecialToken" : "Sequence";
    if (!piece.is_object() || !piece.contains(kind) || !piece[kind].is_object() ||
        !piece[kind].contains("id") || !piece[kind]["id"].is_string()) {
      return fields.Wrong("single", "must list {\"SpecialToken\": {\"id\": ...}} and \"Sequence\"",
                          piece);
    }
    const std::string id = piece[kind]["id"].get<std::string>();
    if (!is_token) {
      if (id != "A" || text_seen) {
        return fields.Wrong("single", "must have the one sequence \"A\"", *single);
      }
      text_seen = true;
      continue;
    }
    SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TemplateIds(fields, id));
    std::vector<int32_t>& side = text_seen ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen) return fields.Wrong("single", "must have the one sequence \"A\"", *single);
  // A later template encloses what the earlier ones made.
  before.insert(before.end(), spec.prefix.begin(), spec.prefix.end());
  spec.prefix = std::move(before);
  spec.suffix.insert(spec.suffix.end(), after.begin(), after.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status NotSupported(absl::string_view what, absl::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(what, " is not supported (supported: ", supported, ")"));
}

absl::StatusOr<bool> BoolOr(const JsonFields& fields, absl::string_view name, bool absent) {
  SA_ASSIGN_OR_RETURN(const std::optional<bool> value, fields.Bool(name));
  return value.value_or(absent);
}

absl::Status ParseNormalizer(const Json& root, TokenizerSpec& spec) {
  SA_ASSIGN_OR_RETURN(const std::vector<Component> components,
                      Section(root, "normalizer", "normalizers"));
  for (const Component& component : components) {
    if (component.type != "NFC") return UnsupportedType(component, "null, NFC");
    spec.normalize_nfc = true;
  }
  return absl::OkStatus();
}

absl::Status ParsePreTokenizer(const Json& root, TokenizerSpec& spec) {
  constexpr absl::string_view kSupported = "Split and Digits, then ByteLevel";
  SA_ASSIGN_OR_RETURN(const std::vector<Component> components,
                      Section(root, "pre_tokenizer", "pretokenizers"));
  bool byte_level = false;
  for (const Component& component : components) {
    // A step behind ByteLevel would see the byte-level alphabet instead of text.
    if (byte_level) return UnsupportedType(component, kSupported);
    const JsonFields fields(*component.json, absl::StrCat(component.path, "."));
    if (component.type == "Split") {
      SA_ASSIGN_OR_RETURN(PreTokenizerStep step, ParseSplit(component));
      spec.pre_tokenizer.push_back(std::move(step));
    } else if (component.type == "Digits") {
      SA_ASSIGN_OR_RETURN(const bool individual,
                          Required(fields.Bool("individual_digits"), fields, "individual_digits"));
      PreTokenizerStep& step = spec.pre_tokenizer.emplace_back();
      step.kind = PreTokenizerStep::Kind::kDigits;
      step.behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    } else if (component.type == "ByteLevel") {
      byte_level = true;
      SA_ASSIGN_OR_RETURN(const bool add_prefix_space,
                          Required(fields.Bool("add_prefix_space"), fields, "add_prefix_space"));
      SA_ASSIGN_OR_RETURN(const bool use_regex, BoolOr(fields, "use_regex", true));
      if (add_prefix_space) {
        spec.pre_tokenizer.emplace_back().kind = PreTokenizerStep::Kind::kPrefixSpace;
      }
      if (use_regex) spec.pre_tokenizer.emplace_back().pattern = kGpt2SplitPattern;
    } else {
      return UnsupportedType(component, kSupported);
    }
  }
  if (!byte_level) return NotSupported("pre_tokenizer: one without ByteLevel", kSupported);
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const Json& root, TokenizerSpec& spec) {
  SA_ASSIGN_OR_RETURN(const std::vector<Component> components,
                      Section(root, "post_processor", "processors"));
  for (const Component& component : components) {
    if (component.type == "ByteLevel") continue;  // Only trims offsets.
    if (component.type != "TemplateProcessing") {
      return UnsupportedType(component, "null, TemplateProcessing, ByteLevel");
    }
    SA_RETURN_IF_ERROR(ParseTemplate(component, spec));
  }
  return absl::OkStatus();
}

absl::Status CheckDecoder(const Json& root) {
  constexpr absl::string_view kSupported = "ByteLevel, optionally followed by Fuse";
  SA_ASSIGN_OR_RETURN(const std::vector<Component> components,
                      Section(root, "decoder", "decoders"));
  if (components.empty()) return NotSupported("decoder: none", kSupported);
  for (const Component& component : components) {
    const bool first = &component == &components.front();
    if (component.type != (first ? "ByteLevel" : "Fuse")) {
      return UnsupportedType(component, kSupported);
    }
  }
  return absl::OkStatus();
}

}  // namespace sparse_attention::internal_tokenizer_json
