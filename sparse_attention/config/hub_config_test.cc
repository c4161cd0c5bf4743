#include "sparse_attention/config/hub_config.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/config/pipeline_config.h"

namespace sparse_attention {
namespace {

using ::testing::StartsWith;

Json Parsed(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json.status());
  return *json;
}

std::string Maskers(absl::string_view text) {
  const absl::StatusOr<Json> pipeline = PipelineJsonFromHubConfig(Parsed(text));
  return pipeline.ok() ? DumpJson((*pipeline)["maskers"]) : pipeline.status().ToString();
}

TEST(HubConfig, ClassAndParams) {
  const char* dump = R"({"type": "ResearchAttentionConfig", "masker_configs": [
      {"type": "SinkMaskerConfig", "params": {"sink_size": 128}},
      {"type": "LocalMaskerConfig", "params": {"window_size": 1.0}},
      {"type": "AdaptiveSamplingMaskerConfig", "params": {"base_rate_sampling": 0.02, "delta": 0.05,
       "epsilon": 0.05, "init_offset": 128, "local_offset": 128}}]})";
  EXPECT_EQ(Maskers(dump), R"([{"type":"sink","sink_size":128},{"type":"local","window_size":1.0},)"
                           R"({"type":"adaptive_sampling","base_rate_sampling":0.02,"delta":0.05,)"
                           R"("epsilon":0.05,"init_offset":128,"local_offset":128}])");
}

TEST(HubConfig, ClassBesideTheFields) {
  EXPECT_EQ(Maskers(R"({"masker_configs": [{"type": "OracleTopKConfig", "heavy_size": 0.02}]})"),
            R"([{"type":"oracle_top_k","heavy_size":0.02}])");
  EXPECT_EQ(Maskers(R"({"masker_configs": [{"name": "SinkMaskerConfig", "sink_size": 4}]})"),
            R"([{"type":"sink","sink_size":4}])");
}

TEST(HubConfig, NullParametersAndSearchSpacesAreDropped) {
  EXPECT_EQ(Maskers(R"({"masker_configs": [{"type": "HashAttentionTopKMaskerConfig", "params": {
                "heavy_size": 64, "hat_bits": 32, "hat_weights": null, "hat_weight_file": "w.bin",
                "search_space": {"heavy_size": [0.01]}}}]})"),
            R"([{"type":"hash_attention_top_k","heavy_size":64,"hat_bits":32,)"
            R"("hat_weight_file":"w.bin"}])");
}

struct ClassCase {
  const char* class_name;
  const char* type;
  const char* fields;
};

constexpr ClassCase kClasses[] = {
    {"SinkMaskerConfig", "sink", R"("sink_size":4)"},
    {"LocalMaskerConfig", "local", R"("window_size":4)"},
    {"OracleTopKConfig", "oracle_top_k", R"("heavy_size":0.5)"},
    {"OracleTopPMaskerConfig", "oracle_top_p", R"("top_p":0.5)"},
    {"HashAttentionTopKMaskerConfig", "hash_attention_top_k", R"("heavy_size":0.5,"hat_bits":32)"},
    {"DoubleSparsityTopKMaskerConfig", "double_sparsity_top_k",
     R"("heavy_size":0.5,"sorted_channel_file":"c.json","label_bits":4)"},
    {"PQCacheConfig", "pq_cache", R"("heavy_size":0.5,"pq_group_factor":2,"pq_bits":6)"},
    {"QuestTopKMaskerConfig", "quest_top_k", R"("heavy_size":0.5,"page_size":16,"label_bits":16)"},
    {"SocketMaskerConfig", "socket_top_k", R"("heavy_size":0.5,"K":4,"L":1,"tau":0.3)"},
    {"RandomSamplingMaskerConfig", "random_sampling", R"("sampling_rate":0.1)"},
    {"AdaptiveSamplingMaskerConfig", "adaptive_sampling", R"("base_rate_sampling":10)"},
    {"MagicPigConfig", "magic_pig", R"("lsh_l":75,"lsh_k":10,"seed":42)"},
};

TEST(HubConfig, EveryClassIsKnownByNameAndByItsFields) {
  for (const ClassCase& c : kClasses) {
    const std::string expected = absl::StrCat("[{\"type\":\"", c.type, "\",", c.fields, "}]");
    EXPECT_EQ(MaskerTypeOfHubClass(c.class_name), c.type);
    EXPECT_EQ(Maskers(absl::StrCat(R"({"masker_configs": [{"type": ")", c.class_name,
                                   R"(", "params": {)", c.fields, "}}]}")),
              expected);
    EXPECT_EQ(
        Maskers(absl::StrCat(R"({"masker_configs": [{)", c.fields, R"(, "search_space": {}}]})")),
        expected);
  }
}

TEST(HubConfig, TheFixedMaskerDisappears) {
  EXPECT_EQ(Maskers(R"({"masker_configs": [{"type": "FixedMaskerConfig", "params": {}},
                {"type": "SinkMaskerConfig", "params": {"sink_size": 4}}]})"),
            R"([{"type":"sink","sink_size":4}])");
  EXPECT_EQ(MaskerTypeOfHubClass("FixedMaskerConfig"), "");
  EXPECT_EQ(MaskerTypeOfHubClass("sink"), std::nullopt);
}

TEST(HubConfig, NullAndNoMaskersAreDense) {
  for (const char* text :
       {"null", R"({"masker_configs": []})", R"({"sparse_attention_config": null})",
        R"({"type": "ResearchAttentionConfig",
           "masker_configs": [{"type": "FixedMaskerConfig"}]})"}) {
    EXPECT_THAT(PipelineFromJson(Parsed(text)), IsOkAndHolds(PipelineConfig())) << text;
  }
}

TEST(HubConfig, ResultFilesHoldIt) {
  const std::string held =
      R"({"type": "ResearchAttentionConfig",
          "masker_configs": [{"type": "SinkMaskerConfig", "params": {"sink_size": 4}}]})";
  for (const char* key : {"sparse_attention_config", "sparse_config"}) {
    const Json file = Parsed(absl::StrCat(R"({"model_kwargs": {"dtype": "torch.bfloat16"}, ")", key,
                                          "\": ", held, R"(, "benchmark_name": "ruler32k"})"));
    EXPECT_TRUE(IsHubConfig(file));
    EXPECT_THAT(PipelineFromJson(file), IsOkAndHolds(*PipelineFromJson(Parsed(held))));
  }
}

TEST(HubConfig, ConfigsOfMethods) {
  const Json expected = Parsed(R"({"type": "double_sparsity", "heavy_size": 0.1, "sink_size": 4,
      "local_size": 8, "ds_channel_config": "c.json", "ds_bits": 4, "ds_group_factor": 2})");
  Json params = expected;
  params.erase("type");
  Json beside = params;
  beside["type"] = "DoubleSparsityConfig";
  const Json under = {{"type", "DoubleSparsityConfig"}, {"params", params}};
  for (const Json& dump : {beside, under, Json{{"sparse_attention_config", under}}}) {
    EXPECT_TRUE(IsHubConfig(dump));
    EXPECT_THAT(PipelineJsonFromHubConfig(dump), IsOkAndHolds(expected)) << dump;
  }
  EXPECT_THAT(PipelineFromJson(beside), IsOkAndHolds(*PipelineFromJson(expected)));
  EXPECT_EQ((*PipelineJsonFromHubConfig(Parsed(R"({"type": "HashAttentionConfig"})")))["type"],
            "hash_attention");
  EXPECT_FALSE(IsHubConfig(expected));
}

TEST(HubConfig, OwnPipelinesAreNotMistaken) {
  EXPECT_FALSE(IsHubConfig(Parsed(R"({"type": "research", "maskers": []})")));
  EXPECT_FALSE(IsHubConfig(Parsed("[]")));
  EXPECT_FALSE(IsHubConfig(Parsed("3")));
}

TEST(HubConfig, ErrorsNameTheEntry) {
  const auto error = [](absl::string_view text) {
    const absl::Status status = PipelineFromJson(Parsed(text)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    return std::string(status.message());
  };
  EXPECT_EQ(error(R"({"masker_configs": [{"type": "SinkMaskerConfig", "sink_size": 4},
                      {"type": "LocalMasker", "params": {}}]})"),
            "masker_configs[1]: unknown class \"LocalMasker\" (did you mean "
            "\"LocalMaskerConfig\"?)");
  EXPECT_EQ(error(R"({"masker_configs": [7]})"),
            "masker_configs[0]: an entry must be an object, got 7");
  EXPECT_EQ(error(R"({"masker_configs": [{"type": 7}]})"),
            "masker_configs[0]: type must be a class name, got 7");
  EXPECT_EQ(error(R"({"masker_configs": [{"type": "SinkMaskerConfig", "params": [4]}]})"),
            "masker_configs[0]: params must be an object, got [4]");
  EXPECT_EQ(error(R"({"masker_configs": [{"size": 4}]})"),
            "masker_configs[0]: has neither a class name nor the fields of a known class: "
            "{\"size\":4}");
  EXPECT_EQ(error(R"({"masker_configs": {}})"), "masker_configs must be a list, got {}");
  EXPECT_EQ(error(R"({"type": "EfficientAttentionConfig", "masker_configs": []})"),
            "type must be \"ResearchAttentionConfig\", got \"EfficientAttentionConfig\"");
  EXPECT_EQ(error(R"({"sparse_attention_config": "an object"})"),
            "sparse_attention_config: the Python hub's config must be an object or null, got "
            "\"an object\"");
  EXPECT_THAT(error(R"({"sparse_attention_config": {"masker_configs": [{"type": "X"}]}})"),
              StartsWith("sparse_attention_config: masker_configs[0]: unknown class"));
  EXPECT_THAT(error(R"({"sparse_attention_config": {}})"),
              StartsWith("sparse_attention_config: the Python hub's config needs masker_configs"));
}

}  // namespace
}  // namespace sparse_attention
