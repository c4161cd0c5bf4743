#include "sparse_attention/config/method_config.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

constexpr char kHash[] = R"({"type": "hash_attention", "heavy_size": 0.02, "sink_size": 128,
    "local_size": 0.5, "hat_weights": "{model}/w.safetensors"})";
constexpr char kDouble[] = R"({"type": "double_sparsity", "heavy_size": 64, "sink_size": 4,
    "local_size": 8, "ds_channel_config": {"sorted_channel_file": "c.json"}, "ds_bits": 4,
    "ds_group_factor": 16})";

Json Parsed(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json.status());
  return *json;
}

// `base` with members of `changes`; null members are taken away.
Json With(absl::string_view base, absl::string_view changes) {
  Json json = Parsed(base);
  const Json members = Parsed(changes);
  for (const auto& [key, value] : members.items()) {
    if (value.is_null()) {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  return json;
}

PipelineConfig Pipeline(const Json& json) {
  absl::StatusOr<PipelineConfig> config = PipelineFromJson(json);
  SA_CHECK_OK(config.status());
  return *config;
}

TEST(MethodConfig, HashAttentionIsItsPipeline) {
  const PipelineConfig expected = Pipeline(Parsed(R"({"type": "efficient", "maskers": [
      {"type": "sink", "sink_size": 128}, {"type": "local", "window_size": 0.5},
      {"type": "hash_attention_top_k", "hat_weight_file": "{model}/w.safetensors",
       "heavy_size": 0.02}]})"));
  EXPECT_EQ(Pipeline(Parsed(kHash)), expected);
  EXPECT_EQ(Pipeline(With(kHash, R"({"hat_bits": 32, "hat_mlp_layers": 3,
                                     "hat_mlp_hidden_size": 128})")),
            expected);
  HashAttentionConfig config;
  config.heavy_size = Budget::Fraction(0.02);
  config.sink_size = Budget::Count(128);
  config.local_size = Budget::Fraction(0.5);
  config.hat_weights = "{model}/w.safetensors";
  EXPECT_THAT(PipelineOf(config), IsOkAndHolds(expected));
  EXPECT_EQ(
      ResolveModelPaths(Pipeline(Parsed(kHash)), "/folder").rules[0].maskers[2]["hat_weight_file"],
      "/folder/w.safetensors");
}

TEST(MethodConfig, DoubleSparsityIsItsPipeline) {
  const PipelineConfig expected = Pipeline(Parsed(R"({"type": "efficient", "maskers": [
      {"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 8},
      {"type": "double_sparsity_top_k", "sorted_channel_file": "c.json", "group_factor": 16,
       "label_bits": 4, "heavy_size": 64}]})"));
  EXPECT_EQ(Pipeline(Parsed(kDouble)), expected);
  EXPECT_EQ(Pipeline(With(kDouble, R"({"ds_channel_config": "c.json"})")), expected);
  DoubleSparsityConfig config;
  config.heavy_size = Budget::Count(64);
  config.sink_size = Budget::Count(4);
  config.local_size = Budget::Count(8);
  config.ds_channel_config.sorted_channel_file = "c.json";
  EXPECT_THAT(PipelineOf(config), IsOkAndHolds(expected));

  const PipelineConfig other = Pipeline(With(kDouble, R"({"ds_bits": 16, "ds_group_factor": 2,
      "ds_channel_config": {"sorted_channel_file": "c.json", "channel_selection": "k_proj"}})"));
  EXPECT_EQ(DumpJson(other.rules[0].maskers[2]),
            R"({"type":"double_sparsity_top_k","sorted_channel_file":"c.json","group_factor":2,)"
            R"("label_bits":16,"channel_selection":"k_proj","heavy_size":64})");
}

TEST(MethodConfig, TakesSelectionAndNames) {
  for (const char* base : {kHash, kDouble}) {
    const PipelineConfig config =
        Pipeline(With(base, R"({"selection": "kv_group", "group_reduce": "sum", "name": "mine",
                                "description": "For a report."})"));
    EXPECT_EQ(config.selection, Selection::kKvGroup);
    EXPECT_EQ(config.group_reduce, GroupReduce::kSum);
    EXPECT_EQ(config.name, "mine");
    EXPECT_EQ(config.description, "For a report.");
    EXPECT_EQ(Pipeline(PipelineToJson(config)), config);
  }
}

TEST(MethodConfig, SizesOfZeroLeaveTheMaskerOut) {
  const auto types = [](absl::string_view changes) {
    const PipelineConfig config = Pipeline(With(kHash, changes));
    std::string names;
    for (const Json& masker : config.rules[0].maskers) {
      absl::StrAppend(&names, masker["type"].get<std::string>(), " ");
    }
    return names;
  };
  EXPECT_EQ(types(R"({"sink_size": 0})"), "local hash_attention_top_k ");
  EXPECT_EQ(types(R"({"local_size": 0})"), "sink hash_attention_top_k ");
  EXPECT_EQ(types(R"({"sink_size": 0.0, "local_size": 0.0})"), "hash_attention_top_k ");
}

TEST(MethodConfig, ErrorsNameTheFieldAndTheRule) {
  const auto error = [](absl::string_view base, absl::string_view changes) {
    const absl::Status status = PipelineFromJson(With(base, changes)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << changes;
    return std::string(status.message());
  };
  EXPECT_EQ(error(kHash, R"({"heavy_size": 0})"), "hash_attention.heavy_size must be > 0, got 0");
  EXPECT_EQ(error(kHash, R"({"heavy_size": null})"), "hash_attention.heavy_size is required");
  EXPECT_EQ(error(kHash, R"({"sink_size": null})"), "hash_attention.sink_size is required");
  EXPECT_EQ(error(kHash, R"({"sink_size": -1})"), "hash_attention.sink_size must be >= 0, got -1");
  EXPECT_EQ(error(kHash, R"({"local_size": "many"})"),
            "hash_attention.local_size must be an integer (count) or a float (fraction), got "
            "\"many\"");
  EXPECT_EQ(error(kHash, R"({"local_size": -0.5})"),
            "hash_attention.local_size must be >= 0, got -0.5");
  EXPECT_EQ(error(kHash, R"({"hat_weights": ""})"),
            "hash_attention.hat_weights must not be empty, got \"\"");
  EXPECT_EQ(error(kHash, R"({"hat_weights": {"0": []}})"),
            "hash_attention.hat_weights must be a string, got {\"0\":[]}");
  EXPECT_EQ(error(kHash, R"({"hat_weight": "w"})"),
            "hash_attention has no field \"hat_weight\" (did you mean \"hat_weights\"? fields: "
            "heavy_size, sink_size, local_size, hat_weights, selection, group_reduce, name, "
            "description)");
  EXPECT_EQ(error(kHash, R"({"selection": "head"})"),
            "hash_attention.selection must be 'query_head' or 'kv_group', got \"head\"");

  EXPECT_EQ(error(kDouble, R"({"ds_bits": 17})"),
            "double_sparsity.ds_bits must be in range (0, 16], got 17");
  EXPECT_EQ(error(kDouble, R"({"ds_bits": null})"), "double_sparsity.ds_bits is required");
  EXPECT_EQ(error(kDouble, R"({"ds_group_factor": 0})"),
            "double_sparsity.ds_group_factor must be > 0, got 0");
  EXPECT_EQ(error(kDouble, R"({"ds_group_factor": 4.0})"),
            "double_sparsity.ds_group_factor must be an integer, got 4.0");
  EXPECT_EQ(error(kDouble, R"({"ds_channel_config": null})"),
            "double_sparsity.ds_channel_config is required");
  EXPECT_EQ(error(kDouble, R"({"ds_channel_config": ""})"),
            "double_sparsity.ds_channel_config.sorted_channel_file must not be empty, got \"\"");
  EXPECT_EQ(error(kDouble, R"({"ds_channel_config": {}})"),
            "double_sparsity.ds_channel_config.sorted_channel_file is required");
  EXPECT_EQ(error(kDouble, R"({"ds_channel_config": 4})"),
            "double_sparsity.ds_channel_config must be an object, got 4");
}

TEST(MethodConfig, PipelineOfChecksTheFieldsOfAStruct) {
  HashAttentionConfig hash;
  EXPECT_THAT(PipelineOf(hash), StatusIs(absl::StatusCode::kInvalidArgument,
                                         "hash_attention.hat_weights must not be empty, got \"\""));
  DoubleSparsityConfig channels;
  channels.ds_channel_config.sorted_channel_file = "c.json";
  channels.ds_group_factor = -1;
  EXPECT_THAT(PipelineOf(channels),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "double_sparsity.ds_group_factor must be > 0, got -1"));
}

}  // namespace
}  // namespace sparse_attention
