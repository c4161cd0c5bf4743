#include "tests/conformance/masker_cases.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"
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
    R"({"type": "hash_attention_top_k", "heavy_size": 5, "hat_weight_file": "{folder}/hash.safetensors"})",
    R"({"type": "double_sparsity_top_k", "heavy_size": 5, "group_factor": 1,
        "sorted_channel_file": "{folder}/channels.json"})",
    R"({"type": "pq_cache", "heavy_size": 6, "pq_group_factor": 2, "pq_bits": 3, "kmeans_iter": 3,
        "init_offset": 3, "metric": "euclidean"})",
    R"({"type": "pq_cache", "heavy_size": 0.1, "pq_group_factor": 3, "pq_bits": 2, "kmeans_iter": 3,
        "init_offset": 0, "metric": "ip"})",
    R"({"type": "quest_top_k", "heavy_size": 0.25, "page_size": 4, "label_bits": 4})",
    R"({"type": "socket_top_k", "heavy_size": 0.1, "K": 5, "L": 8})",
    R"({"type": "snap_kv", "heavy_size": 0.1, "window_size": 2, "kernel_size": 3})",
    R"({"type": "lightning_indexer", "heavy_size": 5, "weight_file": "{folder}/indexer.safetensors"})",
    R"({"type": "random_sampling", "sampling_rate": 0.25, "estimator": "hub"})",
    R"({"type": "adaptive_sampling", "base_rate_sampling": 0.2, "epsilon": 0.3, "delta": 0.3,
        "init_offset": 0.1, "local_offset": 2, "guarantee": "output"})",
    R"({"type": "adaptive_sampling", "base_rate_sampling": 0.2, "epsilon": 0.3, "delta": 0.3,
        "init_offset": 2, "local_offset": 2, "estimator": "hub"})",
};

// Weight files with a layer for each shape that the tests use, written once.
const std::string& FolderOfWeights() {
  static const std::string* const folder = [] {
    const std::string path = ::testing::TempDir();
    std::vector<HashLayerShape> hash;
    std::vector<IndexerLayerShape> indexer;
    ChannelFile channels;
    for (const TestShape& s :
         {TestShape{}, TestShape{.heads = 1, .kv_heads = 1, .dim = 1}, TestShape{.heads = 8},
          TestShape{.heads = 4, .kv_heads = 4}, TestShape{.heads = 6, .dim = 3}}) {
      const int64_t layer = LayerOfShape(s);
      hash.push_back({layer, s.heads, s.kv_heads, s.dim});
      indexer.push_back({layer, s.heads, s.kv_heads, s.dim});
      std::vector<int64_t> order(s.dim);
      std::iota(order.rbegin(), order.rend(), 0);
      SA_CHECK_OK(channels.Set(layer, ChannelSelection::kQueryKey, ChannelLists(s.heads, order)));
    }
    WriteHashAttentionFile(path + "/hash.safetensors", hash);
    WriteIndexerFile(path + "/indexer.safetensors", indexer);
    SA_CHECK_OK(WriteChannelFile(path + "/channels.json", channels));
    return new std::string(path);
  }();
  return *folder;
}

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
      const Json config = ParsedJson(absl::StrReplaceAll(text, {{"{folder}", FolderOfWeights()}}));
      if (config["type"] == descriptor->name) add(config);
    }
    if (count == 0) cases.push_back({absl::StrCat(descriptor->name, "_untested"), descriptor, {}});
  }
  return cases;
}

}  // namespace sparse_attention
