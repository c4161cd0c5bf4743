#include "tests/conformance/masker_cases.h"

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace sparse_attention {
namespace {

// Settings that a schema does not suggest: fractions, other rules, other estimators.
constexpr const char* kMoreConfigs[] = {
    R"({"type": "sink", "sink_size": 0.25})",
    R"({"type": "local", "window_size": 0.25})",
    R"({"type": "oracle_top_k", "heavy_size": 0.25})",
    R"({"type": "oracle_top_p", "top_p": 0.9, "threshold_rule": "at_least", "coverage": "total"})",
    R"({"type": "random_sampling", "sampling_rate": 0.25, "estimator": "hub"})",
    R"({"type": "adaptive_sampling", "base_rate_sampling": 0.2, "epsilon": 0.3, "delta": 0.3,
        "init_offset": 0.1, "local_offset": 2, "guarantee": "output"})",
    R"({"type": "adaptive_sampling", "base_rate_sampling": 0.2, "epsilon": 0.3, "delta": 0.3,
        "init_offset": 2, "local_offset": 2, "estimator": "hub"})",
};

// A value that the schema of a field allows; null where it does not say enough.
Json SuggestedValue(const Json& schema) {
  const Json& rules = schema.contains("anyOf") ? schema["anyOf"][0] : schema;
  const std::string type = rules.value("type", "");
  if (type == "boolean") return false;
  if (type != "number" && type != "integer") return nullptr;
  if (type == "number" && (rules.contains("maximum") || rules.contains("exclusiveMaximum"))) {
    return 0.5;  // a share
  }
  return 3;
}

Json SuggestedConfig(const MaskerDescriptor& descriptor) {
  const Json schema = descriptor.schema();
  Json config = {{"type", descriptor.name}};
  for (const Json& name : schema.value("required", Json::array())) {
    config[name.get<std::string>()] = SuggestedValue(schema["properties"][name.get<std::string>()]);
  }
  return config;
}

}  // namespace

std::unique_ptr<Masker> MaskerCase::Make(const MaskerOptions& options) const {
  absl::StatusOr<std::unique_ptr<Masker>> masker = MaskerFromJson(config, options);
  SA_CHECK_OK(masker);
  return *std::move(masker);
}

std::vector<MaskerCase> AllMaskerCases() {
  std::vector<MaskerCase> cases;
  for (const MaskerDescriptor* descriptor : AllMaskers()) {
    int count = 0;
    const auto add = [&](const Json& config) {
      cases.push_back({absl::StrCat(descriptor->name, "_", count++), descriptor, config});
    };
    // A masker whose required fields cannot be suggested must be in the table.
    const Json suggested = SuggestedConfig(*descriptor);
    if (descriptor->create(suggested, MaskerOptions()).ok()) add(suggested);
    for (const char* text : kMoreConfigs) {
      const Json config = ParsedJson(text);
      if (config["type"] == descriptor->name) add(config);
    }
    if (count == 0) cases.push_back({absl::StrCat(descriptor->name, "_untested"), descriptor, {}});
  }
  return cases;
}

}  // namespace sparse_attention
