#include "sparse_attention/config/hub_config.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {
namespace {

struct HubMasker {
  const char* class_name;
  const char* type;    // "": the hub's masker changes nothing
  const char* marker;  // a field of this class and of none above it; null: none
};

// An entry without a class name is the first whose marker it has. Top-k classes share heavy_size,
// which marks the plain one and therefore comes last.
constexpr HubMasker kHubMaskers[] = {
    {"SinkMaskerConfig", "sink", "sink_size"},
    {"LocalMaskerConfig", "local", "window_size"},
    {"FixedMaskerConfig", "", nullptr},
    {"OracleTopPMaskerConfig", "oracle_top_p", "top_p"},
    {"HashAttentionTopKMaskerConfig", "hash_attention_top_k", "hat_bits"},
    {"DoubleSparsityTopKMaskerConfig", "double_sparsity_top_k", "sorted_channel_file"},
    {"PQCacheConfig", "pq_cache", "pq_bits"},
    {"QuestTopKMaskerConfig", "quest_top_k", "page_size"},
    {"SocketMaskerConfig", "socket_top_k", "tau"},
    {"RandomSamplingMaskerConfig", "random_sampling", "sampling_rate"},
    {"AdaptiveSamplingMaskerConfig", "adaptive_sampling", "base_rate_sampling"},
    {"MagicPigConfig", "magic_pig", "lsh_l"},
    {"OracleTopKConfig", "oracle_top_k", "heavy_size"},
};

// Configs of whole methods, and our "type" of each.
constexpr std::pair<const char*, const char*> kHubMethods[] = {
    {"HashAttentionConfig", "hash_attention"},
    {"DoubleSparsityConfig", "double_sparsity"},
};

constexpr const char* kHolders[] = {"sparse_attention_config", "sparse_config"};

const HubMasker* FindClass(absl::string_view class_name) {
  for (const HubMasker& masker : kHubMaskers) {
    if (class_name == masker.class_name) return &masker;
  }
  return nullptr;
}

absl::StatusOr<const HubMasker*> MaskerOfEntry(const Json& entry) {
  for (const char* key : {"type", "name"}) {
    const auto found = entry.find(key);
    if (found == entry.end()) continue;
    if (!found->is_string()) return RuleError(key, "must be a class name", JsonExcerpt(*found));
    const std::string& class_name = found->get_ref<const std::string&>();
    if (const HubMasker* masker = FindClass(class_name)) return masker;
    std::vector<std::string> names;
    for (const HubMasker& masker : kHubMaskers) names.push_back(masker.class_name);
    return absl::InvalidArgumentError(absl::StrCat("unknown class ", JsonExcerpt(*found),
                                                   " (did you mean \"",
                                                   NearestName(class_name, names), "\"?)"));
  }
  for (const HubMasker& masker : kHubMaskers) {
    if (masker.marker != nullptr && entry.contains(masker.marker)) return &masker;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "has neither a class name nor the fields of a known class: ", JsonExcerpt(entry)));
}

// `entry`, an object, as ours of this type: its fields stand in it or under "params".
absl::StatusOr<Json> ConvertFields(const Json& entry, const char* type) {
  const auto params = entry.find("params");
  if (params != entry.end() && !params->is_object()) {
    return RuleError("params", "must be an object", JsonExcerpt(*params));
  }
  Json converted = {{"type", type}};
  for (const auto& [key, value] : (params == entry.end() ? entry : *params).items()) {
    if (key == "type" || key == "name" || key == "search_space" || value.is_null()) continue;
    converted[key] = value;
  }
  return converted;
}

// Our entry, or null where the hub's masker changes nothing.
absl::StatusOr<Json> ConvertEntry(const Json& entry) {
  if (!entry.is_object()) return RuleError("an entry", "must be an object", JsonExcerpt(entry));
  SA_ASSIGN_OR_RETURN(const HubMasker* masker, MaskerOfEntry(entry));
  if (*masker->type == '\0') return Json(nullptr);
  return ConvertFields(entry, masker->type);
}

// Our "type" of an object that the hub dumped of a method; null: it is none.
const char* MethodType(const Json& json) {
  const auto type = json.find("type");
  for (const auto& [class_name, method] : kHubMethods) {
    if (type != json.end() && *type == class_name) return method;
  }
  return nullptr;
}

}  // namespace

bool IsHubConfig(const Json& json) {
  if (json.is_null()) return true;
  if (!json.is_object()) return false;
  for (const char* holder : kHolders) {
    if (json.contains(holder)) return true;
  }
  return json.contains("masker_configs") || MethodType(json) != nullptr;
}

absl::StatusOr<Json> PipelineJsonFromHubConfig(const Json& json) {
  Json pipeline = {{"type", "research"}, {"maskers", Json::array()}};
  if (json.is_null()) return pipeline;
  if (!json.is_object()) {
    return RuleError("the Python hub's config", "must be an object or null", JsonExcerpt(json));
  }
  for (const char* holder : kHolders) {
    const auto held = json.find(holder);
    if (held == json.end()) continue;
    absl::StatusOr<Json> converted = PipelineJsonFromHubConfig(*held);
    if (!converted.ok()) return Annotate(converted.status(), holder);
    return converted;
  }
  if (const char* method = MethodType(json)) return ConvertFields(json, method);
  const auto configs = json.find("masker_configs");
  if (configs == json.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the Python hub's config needs masker_configs, got ", JsonExcerpt(json)));
  }
  if (const auto type = json.find("type");
      type != json.end() && *type != "ResearchAttentionConfig") {
    return RuleError("type", "must be \"ResearchAttentionConfig\"", JsonExcerpt(*type));
  }
  if (!configs->is_array()) {
    return RuleError("masker_configs", "must be a list", JsonExcerpt(*configs));
  }
  for (size_t i = 0; i < configs->size(); ++i) {
    absl::StatusOr<Json> entry = ConvertEntry((*configs)[i]);
    if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("masker_configs[", i, "]"));
    if (!entry->is_null()) pipeline["maskers"].push_back(*std::move(entry));
  }
  return pipeline;
}

std::optional<std::string> MaskerTypeOfHubClass(absl::string_view class_name) {
  const HubMasker* masker = FindClass(class_name);
  if (masker == nullptr) return std::nullopt;
  return masker->type;
}

}  // namespace sparse_attention
