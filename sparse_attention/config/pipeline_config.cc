#include "sparse_attention/config/pipeline_config.h"

#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/config/hub_config.h"
#include "sparse_attention/config/method_config.h"

namespace sparse_attention {
namespace {

absl::Status CheckHasType(const Json& entry) {
  const auto type = entry.find("type");
  if (type == entry.end()) return absl::InvalidArgumentError("type is required");
  if (!type->is_string()) return RuleError("type", "must be a string", JsonExcerpt(*type));
  return absl::OkStatus();
}

// One element of "layers" as it stands in JSON.
struct RuleDocument {
  static constexpr char kPath[] = "rule";
  IndexRanges layers;
  IndexRanges heads;
  bool dense = false;
  std::optional<std::vector<Json>> maskers;

  static auto Fields() {
    return std::tuple(
        Field{"layers", &RuleDocument::layers, "Layers it holds for; default: all."},
        Field{"heads", &RuleDocument::heads, "Query heads it holds for; default: all."},
        Field{"dense", &RuleDocument::dense, "Dense attention; then maskers is absent or empty."},
        Field{"maskers", &RuleDocument::maskers, "Maskers in order; empty: dense attention."});
  }

  absl::Status Validate() const {
    const bool has_maskers = maskers.has_value() && !maskers->empty();
    if (dense && has_maskers) {
      return absl::InvalidArgumentError("is dense and has maskers; it can be only one of them");
    }
    if (!dense && !maskers.has_value()) {
      return absl::InvalidArgumentError("needs maskers or \"dense\": true");
    }
    return absl::OkStatus();
  }
};

// The pipeline as it stands in JSON: the shared members and, in place of the rules, one of two ways
// to write them.
struct PipelineDocument : PipelineConfig {
  static constexpr char kPath[] = "pipeline";
  std::optional<std::vector<Json>> maskers;
  std::optional<std::vector<RuleDocument>> layers;

  static auto Fields() {
    return std::tuple_cat(
        std::tuple(Field{"type", &PipelineConfig::type, "The engine.", Required()},
                   Field{"seed", &PipelineConfig::seed, "Key of every random draw."}),
        SelectionFields<PipelineConfig>(),
        std::tuple(Field{"batch_invariant", &PipelineConfig::batch_invariant,
                         "Whether a sequence's result is independent of its batch, bit for bit."}),
        ReportFields<PipelineConfig>(),
        std::tuple(Field{"maskers", &PipelineDocument::maskers,
                         "Maskers of every layer and head, in order; empty: dense attention."},
                   Field{"layers", &PipelineDocument::layers,
                         "Rules by layer and query head; the first match decides, without a match "
                         "attention is dense.",
                         NonEmpty()}));
  }

  absl::Status Validate() const {
    if (maskers.has_value() == layers.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("needs exactly one of maskers and layers, has ",
                       maskers.has_value() ? "both" : "neither"));
    }
    for (size_t i = 0; layers.has_value() && i + 1 < layers->size(); ++i) {
      if ((*layers)[i].layers.IsAll() && (*layers)[i].heads.IsAll()) {
        return absl::InvalidArgumentError(absl::StrCat("layers[", i + 1, "] never matches: layers[",
                                                       i, "] takes every layer and head"));
      }
    }
    return absl::OkStatus();
  }
};

bool IsOneRuleForEverything(const PipelineConfig& config) {
  return config.rules.size() == 1 && config.rules[0].matches_everything();
}

Json RuleToJson(const PipelineRule& rule) {
  Json json = Json::object();
  if (!rule.layers.IsAll()) json["layers"] = rule.layers.ToString();
  if (!rule.heads.IsAll()) json["heads"] = rule.heads.ToString();
  if (rule.dense()) {
    json["dense"] = true;
  } else {
    json["maskers"] = rule.maskers;
  }
  return json;
}

Json Reference(const std::string& definition) {
  return {{"$ref", absl::StrCat("#/$defs/", definition)}};
}

Json ListSchema(const Json& items, const Json& description) {
  return {{"type", "array"}, {"items", items}, {"description", description}};
}

// "type" may name a method too, which PipelineDocument does not know of.
absl::Status CheckEngine(const Json& json) {
  if (!json.is_object()) return absl::OkStatus();
  const auto type = json.find("type");
  if (type == json.end()) return absl::OkStatus();
  const std::string* name = type->get_ptr<const std::string*>();
  if (name != nullptr && EnumFromName<EngineType>(*name).has_value()) return absl::OkStatus();
  return RuleError("pipeline.type",
                   absl::StrCat("must be an engine, ", EnumChoices<EngineType>(), ", or a method, ",
                                MethodChoices()),
                   JsonExcerpt(*type));
}

Json RequiredSchema(const char* member) { return {{"required", Json::array({member})}}; }

}  // namespace

const PipelineRule* PipelineConfig::RuleFor(int64_t layer, int64_t head) const {
  for (const PipelineRule& rule : rules) {
    if (rule.layers.Contains(layer) && rule.heads.Contains(head)) return &rule;
  }
  return nullptr;
}

bool operator==(const PipelineConfig& a, const PipelineConfig& b) {
  return JsonEquals(PipelineToJson(a), PipelineToJson(b));
}

absl::StatusOr<PipelineConfig> PipelineFromJson(const Json& json) {
  if (IsHubConfig(json)) {
    SA_ASSIGN_OR_RETURN(const Json converted, PipelineJsonFromHubConfig(json));
    return PipelineFromJson(converted);
  }
  if (IsMethodConfig(json)) return PipelineFromMethod(json);
  SA_RETURN_IF_ERROR(CheckEngine(json));
  SA_ASSIGN_OR_RETURN(PipelineDocument document, ConfigFromJson<PipelineDocument>(json));
  if (document.maskers.has_value()) {
    document.rules.push_back({IndexRanges(), IndexRanges(), *std::move(document.maskers)});
  } else {
    for (RuleDocument& rule : *document.layers) {
      document.rules.push_back(
          {rule.layers, rule.heads, std::move(rule.maskers).value_or(std::vector<Json>())});
    }
  }
  SA_RETURN_IF_ERROR(ForEachMasker(document, CheckHasType));
  return PipelineConfig(std::move(document));
}

absl::StatusOr<PipelineConfig> PipelineFromFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  absl::StatusOr<PipelineConfig> config = PipelineFromJson(json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

Json PipelineToJson(const PipelineConfig& config) {
  PipelineDocument document;
  static_cast<PipelineConfig&>(document) = config;
  Json json = ConfigToJson(document);
  json.erase("maskers");
  json.erase("layers");
  if (config.name.empty()) json.erase("name");
  if (config.description.empty()) json.erase("description");
  if (config.rules.empty()) {
    json["maskers"] = Json::array();
  } else if (IsOneRuleForEverything(config)) {
    json["maskers"] = config.rules[0].maskers;
  } else {
    for (const PipelineRule& rule : config.rules) json["layers"].push_back(RuleToJson(rule));
  }
  return json;
}

PipelineConfig ResolveModelPaths(const PipelineConfig& config, absl::string_view model_folder) {
  constexpr absl::string_view kPlaceholder = "{model}/";
  PipelineConfig resolved = config;
  for (PipelineRule& rule : resolved.rules) {
    for (Json& masker : rule.maskers) {
      for (Json& value : masker) {
        if (!value.is_string()) continue;
        absl::string_view path = value.get_ref<const std::string&>();
        if (!absl::ConsumePrefix(&path, kPlaceholder)) continue;
        value = absl::StrCat(model_folder, "/", path);
      }
    }
  }
  return resolved;
}

std::string MaskerPath(const PipelineConfig& config, size_t rule, size_t masker) {
  if (IsOneRuleForEverything(config)) return absl::StrCat("pipeline.maskers[", masker, "]");
  return absl::StrCat("pipeline.layers[", rule, "].maskers[", masker, "]");
}

absl::Status ForEachMasker(const PipelineConfig& config,
                           const std::function<absl::Status(const Json& entry)>& visit) {
  for (size_t rule = 0; rule < config.rules.size(); ++rule) {
    const std::vector<Json>& maskers = config.rules[rule].maskers;
    for (size_t i = 0; i < maskers.size(); ++i) {
      SA_RETURN_IF_ERROR(Annotate(visit(maskers[i]), MaskerPath(config, rule, i)));
    }
  }
  return absl::OkStatus();
}

Json PipelineSchema(const std::vector<Json>& masker_schemas) {
  Json definitions = Json::object();
  // References to the definitions that are added.
  const auto define = [&definitions](const std::vector<Json>& schemas) {
    Json references = Json::array();
    for (Json schema : schemas) {
      const std::string name = schema.value("title", "");
      SA_CHECK(!name.empty());
      schema["required"].push_back("type");
      definitions[name] = std::move(schema);
      references.push_back(Reference(name));
    }
    return references;
  };
  const Json choices = define(masker_schemas);
  Json rule = ConfigSchema<RuleDocument>();
  Json pipeline = ConfigSchema<PipelineDocument>();
  for (Json* object : {&rule, &pipeline}) {
    Json& maskers = (*object)["properties"]["maskers"];
    maskers = ListSchema({{"oneOf", choices}}, maskers["description"]);
  }
  Json& layers = pipeline["properties"]["layers"];
  layers = ListSchema(Reference("rule"), layers["description"]);
  layers["minItems"] = 1;
  pipeline["oneOf"] = {RequiredSchema("maskers"), RequiredSchema("layers")};
  definitions["rule"] = std::move(rule);
  definitions["pipeline"] = std::move(pipeline);

  Json documents = define(MethodSchemas());
  documents.insert(documents.begin(), Reference("pipeline"));
  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"title", "Sparse attention pipeline"},
          {"oneOf", std::move(documents)},
          {"$defs", std::move(definitions)}};
}

}  // namespace sparse_attention
