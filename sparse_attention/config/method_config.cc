#include "sparse_attention/config/method_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

struct Method {
  const char* name;
  absl::StatusOr<PipelineConfig> (*pipeline)(const Json&);
  Json (*schema)();
};

template <class C>
absl::StatusOr<PipelineConfig> ReadAs(const Json& json) {
  SA_ASSIGN_OR_RETURN(const C config, ConfigFromJson<C>(json));
  return PipelineOf(config);
}

template <class C>
constexpr Method MethodFor() {
  return {C::kName, &ReadAs<C>, &ConfigSchema<C>};
}

constexpr Method kMethods[] = {MethodFor<HashAttentionConfig>(), MethodFor<DoubleSparsityConfig>()};

const Method* FindMethod(const Json& json) {
  if (!json.is_object()) return nullptr;
  const auto type = json.find("type");
  if (type == json.end()) return nullptr;
  for (const Method& method : kMethods) {
    if (*type == method.name) return &method;
  }
  return nullptr;
}

bool IsNothing(const Budget& budget) {
  return budget == Budget::Count(0) || budget == Budget::Fraction(0);
}

PipelineConfig PipelineWith(const MethodConfig& config, Json masker) {
  PipelineRule rule;
  if (!IsNothing(config.sink_size)) {
    rule.maskers.push_back({{"type", "sink"}, {"sink_size", config.sink_size.ToJson()}});
  }
  if (!IsNothing(config.local_size)) {
    rule.maskers.push_back({{"type", "local"}, {"window_size", config.local_size.ToJson()}});
  }
  masker["heavy_size"] = config.heavy_size.ToJson();
  rule.maskers.push_back(std::move(masker));

  PipelineConfig pipeline;
  pipeline.type = EngineType::kEfficient;
  pipeline.selection = config.selection;
  pipeline.group_reduce = config.group_reduce;
  pipeline.name = config.name;
  pipeline.description = config.description;
  pipeline.rules.push_back(std::move(rule));
  return pipeline;
}

}  // namespace

Json FieldValue<ChannelConfig>::Schema(const FieldRules&) {
  const Json file = {{"type", "string"}, {"minLength", 1}};
  return {{"anyOf", Json::array({file, ConfigSchema<ChannelConfig>()})}};
}

absl::Status FieldValue<ChannelConfig>::Read(const Json& json, const std::string& path,
                                             const FieldRules&, ChannelConfig* out) {
  if (const std::string* file = json.get_ptr<const std::string*>()) {
    *out = {*file, std::nullopt};
    return absl::OkStatus();
  }
  return internal_field::ReadAt(json, path, out);
}

absl::Status FieldValue<ChannelConfig>::Check(const ChannelConfig& value, const std::string& path,
                                              const FieldRules&) {
  return internal_field::ValidateAt(value, path);
}

absl::StatusOr<PipelineConfig> PipelineOf(const HashAttentionConfig& config) {
  SA_RETURN_IF_ERROR(Validate(config));
  return PipelineWith(config,
                      {{"type", "hash_attention_top_k"}, {"hat_weight_file", config.hat_weights}});
}

absl::StatusOr<PipelineConfig> PipelineOf(const DoubleSparsityConfig& config) {
  SA_RETURN_IF_ERROR(Validate(config));
  Json masker = {{"type", "double_sparsity_top_k"},
                 {"sorted_channel_file", config.ds_channel_config.sorted_channel_file},
                 {"group_factor", config.ds_group_factor},
                 {"label_bits", config.ds_bits}};
  if (const auto& selection = config.ds_channel_config.channel_selection) {
    masker["channel_selection"] = *selection;
  }
  return PipelineWith(config, std::move(masker));
}

bool IsMethodConfig(const Json& json) { return FindMethod(json) != nullptr; }

std::string MethodChoices() {
  return absl::StrJoin(kMethods, " or ", [](std::string* out, const Method& method) {
    absl::StrAppend(out, "'", method.name, "'");
  });
}

absl::StatusOr<PipelineConfig> PipelineFromMethod(const Json& json) {
  const Method* method = FindMethod(json);
  SA_CHECK(method != nullptr);
  return method->pipeline(json);
}

std::vector<Json> MethodSchemas() {
  std::vector<Json> schemas;
  for (const Method& method : kMethods) schemas.push_back(method.schema());
  return schemas;
}

}  // namespace sparse_attention
