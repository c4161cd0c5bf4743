#include "sparse_attention/config/pipeline_config.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <random>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json Parsed(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json.status());
  return *json;
}

PipelineConfig Pipeline(absl::string_view text) {
  absl::StatusOr<PipelineConfig> config = PipelineFromJson(Parsed(text));
  SA_CHECK_OK(config.status());
  return *config;
}

std::string Error(absl::string_view text) {
  const absl::Status status = PipelineFromJson(Parsed(text)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

std::string Dump(const PipelineConfig& config) { return DumpJson(PipelineToJson(config)); }

constexpr char kFull[] = R"({
  "type": "efficient", "seed": 18446744073709551615, "selection": "kv_group",
  "group_reduce": "mean", "batch_invariant": true, "name": "mixed",
  "description": "First layers dense.",
  "layers": [
    {"layers": "0-1", "dense": true},
    {"layers": "2-5,9", "heads": "0-7", "maskers": [{"type": "sink", "sink_size": 1.0}]},
    {"heads": "8-", "maskers": [{"type": "sink", "sink_size": 1}, {"type": "local"}]},
    {"maskers": [{"type": "oracle_top_k", "heavy_size": 0.02}]}]})";

TEST(PipelineConfig, OneListOfMaskers) {
  const PipelineConfig config = Pipeline(
      R"({"type": "research",
          "maskers": [{"type": "sink", "sink_size": 128}, {"type": "local"}]})");
  EXPECT_EQ(config.type, EngineType::kResearch);
  EXPECT_EQ(config.seed, 42u);
  EXPECT_EQ(config.selection, Selection::kQueryHead);
  EXPECT_EQ(config.group_reduce, GroupReduce::kMax);
  EXPECT_FALSE(config.batch_invariant);
  ASSERT_EQ(config.rules.size(), 1u);
  EXPECT_TRUE(config.rules[0].matches_everything());
  EXPECT_FALSE(config.rules[0].dense());
  EXPECT_EQ(config.RuleFor(1000, 63), &config.rules[0]);
  EXPECT_EQ(Dump(config),
            R"({"type":"research","seed":42,"selection":"query_head","group_reduce":"max",)"
            R"("batch_invariant":false,"maskers":[{"type":"sink","sink_size":128},)"
            R"({"type":"local"}]})");
}

TEST(PipelineConfig, FirstMatchingRuleDecidesAndNoMatchIsDense) {
  const PipelineConfig config = Pipeline(kFull);
  EXPECT_EQ(config.type, EngineType::kEfficient);
  EXPECT_EQ(config.seed, ~uint64_t{0});
  EXPECT_EQ(config.selection, Selection::kKvGroup);
  EXPECT_EQ(config.group_reduce, GroupReduce::kMean);
  EXPECT_TRUE(config.batch_invariant);
  EXPECT_EQ(config.name, "mixed");
  EXPECT_EQ(config.description, "First layers dense.");
  ASSERT_EQ(config.rules.size(), 4u);
  EXPECT_EQ(config.RuleFor(0, 9), &config.rules[0]);
  EXPECT_TRUE(config.rules[0].dense());
  EXPECT_EQ(config.RuleFor(2, 7), &config.rules[1]);
  EXPECT_EQ(config.RuleFor(9, 0), &config.rules[1]);
  EXPECT_EQ(config.RuleFor(2, 8), &config.rules[2]);
  EXPECT_EQ(config.RuleFor(6, 0), &config.rules[3]);

  const PipelineConfig partial = Pipeline(
      R"({"type": "research", "layers": [{"layers": "2-", "maskers": [{"type": "sink"}]}]})");
  EXPECT_EQ(partial.RuleFor(1, 0), nullptr);
  EXPECT_EQ(partial.RuleFor(2, 0), &partial.rules[0]);
}

TEST(PipelineConfig, RoundTripKeepsEverything) {
  for (
      const char* text :
      {kFull, R"({"type": "research", "maskers": []})",
       R"({"type": "research", "layers": [{"layers": "3", "dense": true}]})",
       R"({"type": "research", "layers": [{"heads": "0,2-3", "maskers": [{"type": "local"}]}]})"}) {
    const PipelineConfig config = Pipeline(text);
    const PipelineConfig again = Pipeline(Dump(config));
    EXPECT_EQ(config, again) << text;
    EXPECT_EQ(Dump(config), Dump(again));
  }
  EXPECT_EQ(Pipeline(R"({"type": "research", "maskers": []})"), PipelineConfig());
}

TEST(PipelineConfig, CountsAndFractionsAreDifferentPipelines) {
  EXPECT_NE(Pipeline(R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 1}]})"),
            Pipeline(R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 1.0}]})"));
  EXPECT_NE(Pipeline(R"({"type": "research", "maskers": []})"),
            Pipeline(R"({"type": "efficient", "maskers": []})"));
}

TEST(PipelineConfig, ErrorsNameThePlaceAndTheRule) {
  EXPECT_EQ(Error("[]"), "pipeline must be an object, got []");
  EXPECT_EQ(Error(R"({"maskers": []})"), "pipeline.type is required");
  EXPECT_EQ(Error(R"({"type": "fast", "maskers": []})"),
            "pipeline.type must be an engine, 'research' or 'efficient', or a method, "
            "'hash_attention' or 'double_sparsity', got \"fast\"");
  EXPECT_THAT(Error(R"({"type": 7, "maskers": []})"), HasSubstr("or a method"));
  EXPECT_EQ(Error(R"({"type": "research", "masker": []})"),
            "pipeline has no field \"masker\" (did you mean \"maskers\"? fields: type, seed, "
            "selection, group_reduce, batch_invariant, name, description, maskers, layers)");
  EXPECT_EQ(Error(R"({"type": "research"})"),
            "pipeline: needs exactly one of maskers and layers, has neither");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [], "layers": [{"dense": true}]})"),
            "pipeline: needs exactly one of maskers and layers, has both");
  EXPECT_EQ(Error(R"({"type": "research", "layers": []})"),
            "pipeline.layers must not be empty, got []");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [], "seed": -1})"),
            "pipeline.seed must be a non-negative integer, got -1");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [], "selection": "head"})"),
            "pipeline.selection must be 'query_head' or 'kv_group', got \"head\"");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [], "group_reduce": 3})"),
            "pipeline.group_reduce must be 'max', 'mean' or 'sum', got 3");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": {}})"),
            "pipeline.maskers must be a list, got {}");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [{"type": "sink"}, 4]})"),
            "pipeline.maskers[1] must be an object, got 4");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [{"type": "sink"}, {"sink_size": 4}]})"),
            "pipeline.maskers[1]: type is required");
  EXPECT_EQ(Error(R"({"type": "research", "maskers": [{"type": 4}]})"),
            "pipeline.maskers[0]: type must be a string, got 4");
}

TEST(PipelineConfig, ErrorsInRules) {
  const auto error = [](const std::string& rules) {
    return Error(absl::StrCat(R"({"type": "research", "layers": [)", rules, "]}"));
  };
  EXPECT_EQ(error(R"({"layers": 3, "dense": true})"),
            "pipeline.layers[0].layers must be ranges such as \"0-3,8-\", got 3");
  EXPECT_EQ(error(R"({"layers": "0", "dense": true}, {"heads": "3-1", "dense": true})"),
            "pipeline.layers[1].heads has a range that ends before it begins, got \"3-1\"");
  EXPECT_EQ(error(R"({"layers": "0"})"), "pipeline.layers[0]: needs maskers or \"dense\": true");
  EXPECT_EQ(error(R"({"dense": true, "maskers": [{"type": "sink"}]})"),
            "pipeline.layers[0]: is dense and has maskers; it can be only one of them");
  EXPECT_EQ(error(R"({"dense": 1})"), "pipeline.layers[0].dense must be true or false, got 1");
  EXPECT_EQ(error(R"({"layer": "0", "dense": true})"),
            "pipeline.layers[0] has no field \"layer\" (did you mean \"layers\"? fields: layers, "
            "heads, dense, maskers)");
  EXPECT_EQ(error(R"({"layers": "0", "maskers": []}, {"layers": "1", "maskers": [{"a": 1}]})"),
            "pipeline.layers[1].maskers[0]: type is required");
  EXPECT_EQ(error(R"({"dense": true}, {"layers": "0", "dense": true})"),
            "pipeline: layers[1] never matches: layers[0] takes every layer and head");
}

TEST(PipelineConfig, ForEachMaskerAddsThePathToErrors) {
  std::vector<std::string> types;
  SA_EXPECT_OK(ForEachMasker(Pipeline(kFull), [&](const Json& entry) {
    types.push_back(entry["type"]);
    return absl::OkStatus();
  }));
  EXPECT_THAT(types, ElementsAre("sink", "sink", "local", "oracle_top_k"));

  const auto refuse_local = [](const Json& entry) {
    return entry["type"] == "local" ? absl::InvalidArgumentError("local.window_size is required")
                                    : absl::OkStatus();
  };
  EXPECT_THAT(ForEachMasker(Pipeline(kFull), refuse_local),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "pipeline.layers[2].maskers[1]: local.window_size is required"));
  EXPECT_THAT(ForEachMasker(Pipeline(R"({"type": "research", "maskers": [{"type": "local"}]})"),
                            refuse_local),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "pipeline.maskers[0]: local.window_size is required"));
}

TEST(PipelineConfig, FilesAreNamedInErrors) {
  const std::string path = ::testing::TempDir() + "/pipeline_config_test.json";
  const auto write = [&path](absl::string_view text) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    SA_CHECK(file != nullptr);
    SA_CHECK(std::fwrite(text.data(), 1, text.size(), file) == text.size());
    SA_CHECK(std::fclose(file) == 0);
  };
  write(kFull);
  EXPECT_THAT(PipelineFromFile(path), IsOkAndHolds(Pipeline(kFull)));
  write(R"({"type": "research", "maskers": [{}]})");
  EXPECT_THAT(PipelineFromFile(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                               path + ": pipeline.maskers[0]: type is required"));
  write("{\n  \"type\": }");
  EXPECT_THAT(PipelineFromFile(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr(path + ": line 2, column 11: ")));
  EXPECT_THAT(PipelineFromFile(path + ".no"), StatusIs(absl::StatusCode::kNotFound));
}

// Two maskers for the schema.
struct SinkConfig {
  static constexpr char kName[] = "sink";
  Budget sink_size = Budget::Count(4);
  static auto Fields() {
    return std::tuple(
        Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.", PositiveBudget()});
  }
};
struct OracleTopKConfig {
  static constexpr char kName[] = "oracle_top_k";
  Budget heavy_size;
  static auto Fields() {
    return std::tuple(Field{"heavy_size", &OracleTopKConfig::heavy_size, "Keys kept.",
                            PositiveBudget(), Required()});
  }
};

TEST(PipelineSchema, IsAUnionOfTheMaskersByType) {
  const Json document =
      PipelineSchema({ConfigSchema<SinkConfig>(), ConfigSchema<OracleTopKConfig>()});
  EXPECT_EQ(document["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(document["oneOf"], Parsed(R"([{"$ref": "#/$defs/pipeline"},
      {"$ref": "#/$defs/hash_attention"}, {"$ref": "#/$defs/double_sparsity"}])"));
  const Json& definitions = document["$defs"];
  const Json& schema = definitions["pipeline"];
  EXPECT_EQ(schema["type"], "object");
  EXPECT_EQ(schema["additionalProperties"], false);
  EXPECT_EQ(DumpJson(schema["required"]), R"(["type"])");
  EXPECT_EQ(DumpJson(schema["oneOf"]), R"([{"required":["maskers"]},{"required":["layers"]}])");
  EXPECT_EQ(DumpJson(schema["properties"]["type"]["enum"]), R"(["research","efficient"])");
  EXPECT_EQ(schema["properties"]["seed"]["default"], 42);
  EXPECT_EQ(definitions["hash_attention"]["properties"]["type"]["const"], "hash_attention");
  EXPECT_EQ(DumpJson(definitions["double_sparsity"]["required"]),
            R"(["heavy_size","sink_size","local_size","ds_channel_config","ds_bits",)"
            R"("ds_group_factor","type"])");

  const Json union_of_maskers =
      Parsed(R"({"oneOf": [{"$ref": "#/$defs/sink"}, {"$ref": "#/$defs/oracle_top_k"}]})");
  EXPECT_EQ(schema["properties"]["maskers"]["type"], "array");
  EXPECT_EQ(schema["properties"]["maskers"]["items"], union_of_maskers);
  EXPECT_EQ(DumpJson(schema["properties"]["layers"]["items"]), R"({"$ref":"#/$defs/rule"})");
  EXPECT_EQ(schema["properties"]["layers"]["minItems"], 1);
  const Json& rule = definitions["rule"];
  EXPECT_EQ(rule["additionalProperties"], false);
  EXPECT_EQ(rule["properties"]["maskers"]["items"], union_of_maskers);
  EXPECT_EQ(rule["properties"]["layers"]["type"], "string");

  const Json& sink = definitions["sink"];
  EXPECT_EQ(sink["properties"]["type"]["const"], "sink");
  EXPECT_EQ(DumpJson(sink["required"]), R"(["type"])");
  EXPECT_EQ(DumpJson(definitions["oracle_top_k"]["required"]), R"(["heavy_size","type"])");
  SA_EXPECT_OK(ParseJson(DumpJson(document)));
}

// Damages `text` in one to four places: bytes, cuts, doubled pieces, pieces of JSON.
std::string Mutated(std::string text, std::mt19937& random) {
  const char* kPieces[] = {"{",  "}",     "[",   "]",    ",",        ":",     "\"",   "null",
                           "-1", "1e999", "0.0", "true", "\"type\"", "\\u00", "\xff", "[[[["};
  for (int i = 0, n = 1 + random() % 4; i < n; ++i) {
    const size_t at = random() % (text.size() + 1);
    const size_t length = random() % 20;
    switch (random() % 5) {
      case 0:
        text.insert(at, kPieces[random() % std::size(kPieces)]);
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(random() % (text.size() + 1), length));
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      default:
        text.replace(at, std::min(length, text.size() - at),
                     kPieces[random() % std::size(kPieces)]);
    }
  }
  return text;
}

TEST(PipelineConfig, DamagedTextIsReadOrRefusedAndNeverCrashes) {
  constexpr char kHub[] =
      R"({"sparse_attention_config": {"type": "ResearchAttentionConfig", "masker_configs": [
          {"type": "SinkMaskerConfig", "params": {"sink_size": 128}}, {"window_size": 0.5}]}})";
  std::mt19937 random(11);
  int accepted = 0;
  constexpr int kTrials = 10000;
  for (int trial = 0; trial < kTrials; ++trial) {
    const std::string text = Mutated(trial % 2 == 0 ? kFull : kHub, random);
    const absl::StatusOr<Json> json = ParseJson(text);
    if (!json.ok()) {
      EXPECT_FALSE(json.status().message().empty());
      continue;
    }
    const absl::StatusOr<PipelineConfig> config = PipelineFromJson(*json);
    if (!config.ok()) {
      EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
      continue;
    }
    ++accepted;
    ASSERT_THAT(PipelineFromJson(Parsed(Dump(*config))), IsOkAndHolds(*config)) << text;
    config->RuleFor(3, 3);
  }
  // Some damage leaves a valid pipeline, most does not.
  EXPECT_GT(accepted, kTrials / 100);
  EXPECT_LT(accepted, kTrials / 2);
}

TEST(ResolveModelPaths, ReplacesThePlaceholderAtTheBeginningOfTexts) {
  SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config,
                          PipelineFromJson(*ParseJson(R"({"type": "research", "maskers": [
          {"type": "a", "file": "{model}/x.json", "other": "in/{model}/y", "size": 3},
          {"type": "b", "file": "{model}"}]})")));
  const PipelineConfig resolved = ResolveModelPaths(config, "/some/model");
  EXPECT_EQ(DumpJson(resolved.rules[0].maskers[0]),
            R"({"type":"a","file":"/some/model/x.json","other":"in/{model}/y","size":3})");
  EXPECT_EQ(DumpJson(resolved.rules[0].maskers[1]), R"({"type":"b","file":"{model}"})");
  EXPECT_EQ(ResolveModelPaths(resolved, "/other"), resolved);
}

}  // namespace
}  // namespace sparse_attention
