#include "adapters/huggingface/model_config.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// As published for Llama-3.2-1B, in the form of transformers 4.
const char kLlamaV4[] = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
  "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
  "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
  "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256})";

// Qwen2.5-7B-Instruct, with the yarn addition of its model card.
const char kQwen2V4[] = R"({
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
  "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584,
  "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
  "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
  "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
  "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "use_sliding_window": false, "vocab_size": 152064})";

// A small Qwen3 as transformers 5 writes it.
const char kQwen3V5[] = R"({
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "bos_token_id": null,
  "dtype": "float32", "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 1024, "intermediate_size": 3072, "layer_types": ["full_attention",
  "sliding_attention", "full_attention"], "max_position_embeddings": 40960,
  "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16,
  "num_hidden_layers": 3, "num_key_value_heads": 8, "pad_token_id": null,
  "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
  "sliding_window": 512, "tie_word_embeddings": true, "transformers_version": "5.17.0",
  "use_sliding_window": true, "vocab_size": 151936})";

// Mistral-7B-v0.1.
const char kMistralV4[] = R"({
  "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
  "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
  "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
  "torch_dtype": "float16", "vocab_size": 32000})";

// `base` with the members of `patch` put in; a member that is the string "absent" is taken out.
absl::StatusOr<ModelConfig> Patched(const char* base, const std::string& patch) {
  nlohmann::json json = nlohmann::json::parse(base);
  const nlohmann::json changes = nlohmann::json::parse(patch);
  for (const auto& [name, value] : changes.items()) {
    if (value == "absent") {
      json.erase(name);
    } else {
      json[name] = value;
    }
  }
  return ModelConfig::FromJson(json.dump());
}

TEST(ModelConfig, ReadsLlama) {
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::FromJson(kLlamaV4));
  EXPECT_EQ(config.family, ModelFamily::kLlama);
  EXPECT_EQ(ModelFamilyName(config.family), "llama");
  EXPECT_EQ(config.vocab_size, 128256);
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.intermediate_size, 8192);
  EXPECT_EQ(config.num_layers, 16);
  EXPECT_EQ(config.num_heads, 32);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.max_position_embeddings, 131072);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias || config.qk_norm);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.sliding_windows, std::vector<int64_t>(16, 0));
  EXPECT_EQ(config.rope.type, RopeType::kLlama3);
  EXPECT_EQ(RopeTypeName(config.rope.type), "llama3");
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.factor, 32.0);
  EXPECT_EQ(config.rope.low_freq_factor, 1.0);
  EXPECT_EQ(config.rope.high_freq_factor, 4.0);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 8192);
  EXPECT_EQ(config.rope.AttentionScaling(), 1.0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_THAT(config.bos_token_id, Optional(128000));
  EXPECT_EQ(config.dtype, "bfloat16");
}

TEST(ModelConfig, ReadsQwen2WithYarn) {
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::FromJson(kQwen2V4));
  EXPECT_EQ(config.family, ModelFamily::kQwen2);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias || config.mlp_bias || config.qk_norm);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_THAT(config.sliding_windows, Each(0));
  EXPECT_EQ(config.rope.type, RopeType::kYarn);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_EQ(config.rope.factor, 4.0);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 32768);
  EXPECT_EQ(config.rope.beta_fast, 32.0);
  EXPECT_EQ(config.rope.beta_slow, 1.0);
  EXPECT_TRUE(config.rope.truncate);
  EXPECT_DOUBLE_EQ(config.rope.AttentionScaling(), 0.1 * std::log(4.0) + 1.0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(151645));
}

TEST(ModelConfig, ReadsQwen3) {
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::FromJson(kQwen3V5));
  EXPECT_EQ(config.family, ModelFamily::kQwen3);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.head_dim, 128);  // not 1024 / 16
  EXPECT_THAT(config.sliding_windows, ElementsAre(0, 512, 0));
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 40960);
  EXPECT_EQ(config.bos_token_id, std::nullopt);
  EXPECT_EQ(config.dtype, "float32");
}

TEST(ModelConfig, ReadsMistral) {
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::FromJson(kMistralV4));
  EXPECT_EQ(config.family, ModelFamily::kMistral);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias || config.qk_norm);
  EXPECT_EQ(config.sliding_windows, std::vector<int64_t>(32, 4096));
  EXPECT_EQ(config.dtype, "float16");
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig full,
                          Patched(kMistralV4, R"({"sliding_window": null})"));
  EXPECT_EQ(full.sliding_windows, std::vector<int64_t>(32, 0));
}

TEST(ModelConfig, BothVersionsOfTheFieldsSayTheSame) {
  SA_ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      Patched(kLlamaV4,
              R"({"rope_theta": "absent", "rope_scaling": "absent", "torch_dtype": "absent",
        "dtype": "bfloat16", "rope_parameters": {"rope_theta": 500000.0, "factor": 32.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}})"));
  EXPECT_EQ(config.rope.type, RopeType::kLlama3);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.factor, 32.0);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 8192);
  EXPECT_EQ(config.dtype, "bfloat16");
}

TEST(ModelConfig, AbsentFieldsTakeTheFamilysDefaults) {
  const std::string sizes = R"("vocab_size": 100, "hidden_size": 512, "intermediate_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 32})";
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig llama,
                          ModelConfig::FromJson(R"({"model_type": "llama", )" + sizes));
  EXPECT_EQ(llama.num_kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 16);
  EXPECT_EQ(llama.max_position_embeddings, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.rope.theta, 10000.0);
  EXPECT_FALSE(llama.tie_word_embeddings);
  EXPECT_THAT(llama.eos_token_ids, ElementsAre(2));
  EXPECT_THAT(llama.bos_token_id, Optional(1));
  EXPECT_EQ(llama.dtype, "");
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig qwen2,
                          ModelConfig::FromJson(R"({"model_type": "qwen2", )" + sizes));
  EXPECT_EQ(qwen2.num_kv_heads, 32);
  EXPECT_EQ(qwen2.head_dim, 16);
  EXPECT_THAT(qwen2.eos_token_ids, IsEmpty());
  EXPECT_EQ(qwen2.bos_token_id, std::nullopt);
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig qwen3,
                          ModelConfig::FromJson(R"({"model_type": "qwen3", )" + sizes));
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(qwen3.max_position_embeddings, 32768);
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig mistral,
                          ModelConfig::FromJson(R"({"model_type": "mistral", )" + sizes));
  EXPECT_EQ(mistral.num_kv_heads, 8);
  EXPECT_THAT(mistral.sliding_windows, Each(4096));
}

TEST(ModelConfig, NullIsNotTheSameAsAbsent) {
  SA_ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      Patched(kQwen3V5,
              R"({"num_key_value_heads": null, "head_dim": null, "eos_token_id": null})"));
  EXPECT_EQ(config.num_kv_heads, 16);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
}

TEST(ModelConfig, BiasFieldsCountOnlyWhereTheFamilyReadsThem) {
  const char* biased = R"({"attention_bias": true, "mlp_bias": true})";
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig llama, Patched(kLlamaV4, biased));
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig qwen2, Patched(kQwen2V4, biased));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.mlp_bias);
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig qwen3, Patched(kQwen3V5, biased));
  EXPECT_TRUE(qwen3.qkv_bias && qwen3.o_bias);
  EXPECT_FALSE(qwen3.mlp_bias);
  SA_ASSERT_OK_AND_ASSIGN(const ModelConfig mistral, Patched(kMistralV4, biased));
  EXPECT_FALSE(mistral.qkv_bias || mistral.o_bias || mistral.mlp_bias);
}

TEST(ModelConfig, SlidingWindowsOfUpperLayers) {
  const auto windows = [](const std::string& patch) {
    return Patched(kQwen2V4, patch).value().sliding_windows;
  };
  EXPECT_THAT(windows(R"({"num_hidden_layers": 4, "use_sliding_window": true, "sliding_window": 64,
                          "max_window_layers": 1})"),
              ElementsAre(0, 64, 64, 64));
  EXPECT_THAT(windows(R"({"num_hidden_layers": 2, "use_sliding_window": true})"), Each(0));
  EXPECT_THAT(windows(R"({"num_hidden_layers": 2, "use_sliding_window": true,
                          "sliding_window": null, "max_window_layers": 0})"),
              Each(0));
  // An explicit list decides.
  EXPECT_THAT(windows(R"({"num_hidden_layers": 3, "use_sliding_window": true, "sliding_window": 8,
                          "max_window_layers": 0, "layer_types":
                          ["full_attention", "sliding_attention", "full_attention"]})"),
              ElementsAre(0, 8, 0));
}

TEST(ModelConfig, RopeTypes) {
  const auto rope = [](const std::string& rope) {
    return Patched(kMistralV4, R"({"rope_scaling": )" + rope + "}").value().rope;
  };
  EXPECT_EQ(rope("null").type, RopeType::kDefault);
  EXPECT_EQ(rope("{}").type, RopeType::kDefault);
  EXPECT_EQ(rope(R"({"type": "linear", "factor": 2})").type, RopeType::kLinear);
  EXPECT_EQ(rope(R"({"type": "linear", "factor": 2})").factor, 2.0);
  const RopeConfig dynamic =
      rope(R"({"rope_type": "dynamic", "factor": 8, "original_max_position_embeddings": 99})");
  EXPECT_EQ(dynamic.type, RopeType::kDynamic);
  EXPECT_EQ(dynamic.original_max_position_embeddings, 32768);
  EXPECT_EQ(dynamic.AttentionScaling(), 1.0);

  const RopeConfig yarn = rope(R"({"rope_type": "yarn", "factor": 40, "beta_fast": 24,
      "beta_slow": 2, "mscale": 1.2, "mscale_all_dim": 0.8, "truncate": false,
      "original_max_position_embeddings": 4096})");
  EXPECT_EQ(yarn.beta_fast, 24.0);
  EXPECT_EQ(yarn.beta_slow, 2.0);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_DOUBLE_EQ(yarn.AttentionScaling(),
                   (0.12 * std::log(40.0) + 1.0) / (0.08 * std::log(40.0) + 1.0));
  EXPECT_EQ(
      rope(R"({"rope_type": "yarn", "factor": 2, "attention_factor": 0.5})").AttentionScaling(),
      0.5);
  EXPECT_EQ(rope(R"({"rope_type": "yarn", "factor": 1})").AttentionScaling(), 1.0);
  EXPECT_EQ(rope(R"({"rope_type": "yarn", "factor": 2})").original_max_position_embeddings, 32768);
  // null: as far as the positions were stretched
  EXPECT_EQ(rope(R"({"rope_type": "yarn", "factor": null,
                     "original_max_position_embeddings": 8192})")
                .factor,
            4.0);
}

TEST(ModelConfig, RopePrecedenceIsThatOfTransformers) {
  SA_ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      Patched(kMistralV4, R"({"rope_theta": 7.0, "original_max_position_embeddings": 77,
        "rope_parameters": {"rope_type": "linear", "factor": 3, "rope_theta": 5.0},
        "rope_scaling": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 9}})"));
  EXPECT_EQ(config.rope.type, RopeType::kYarn);
  EXPECT_EQ(config.rope.theta, 7.0);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 77);
  SA_ASSERT_OK_AND_ASSIGN(
      const ModelConfig inner,
      Patched(kMistralV4, R"({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5.0}})"));
  EXPECT_EQ(inner.rope.theta, 5.0);
}

struct BadConfig {
  const char* base;
  std::string patch;
  std::string message;  // after "config.json: "
};

TEST(ModelConfig, WrongValuesNameTheFieldTheRuleAndTheValue) {
  const char* llama = kLlamaV4;
  std::vector<BadConfig> bad = {
      {llama, R"({"model_type": "absent"})", "model_type is missing"},
      {llama, R"({"model_type": 3})", "model_type must be a string, got 3"},
      {llama, R"({"num_attention_heads": -3})", "num_attention_heads must be > 0, got -3"},
      {llama, R"({"num_key_value_heads": 5})",
       "num_key_value_heads must divide num_attention_heads (32), got 5"},
      {llama, R"({"num_key_value_heads": 64})",
       "num_key_value_heads must divide num_attention_heads (32), got 64"},
      {llama, R"({"num_key_value_heads": 0})", "num_key_value_heads must be > 0, got 0"},
      {llama, R"({"head_dim": 63})",
       "head_dim must be even and <= 1024, for rotary embeddings, got 63"},
      {llama, R"({"head_dim": 2048})", "head_dim must be <= 1024, got 2048"},
      {llama, R"({"head_dim": "absent", "num_attention_heads": 24})",
       "hidden_size must be a multiple of num_attention_heads (24) where head_dim is not given, "
       "got 2048"},
      {llama, R"({"head_dim": null, "num_attention_heads": 1, "num_key_value_heads": 1})",
       "head_dim must be even and <= 1024, for rotary embeddings, got 2048"},
      {llama, R"({"max_position_embeddings": 0})", "max_position_embeddings must be > 0, got 0"},
      {llama, R"({"rms_norm_eps": 0})", "rms_norm_eps must be >= 1e-30, got 0"},
      {llama, R"({"rms_norm_eps": "1e-5"})", "rms_norm_eps must be a number, got \"1e-5\""},
      {llama, R"({"attention_bias": 1})", "attention_bias must be true or false, got 1"},
      {llama, R"({"mlp_bias": "no"})", "mlp_bias must be true or false, got \"no\""},
      {llama, R"({"tie_word_embeddings": 0})", "tie_word_embeddings must be true or false, got 0"},
      {llama, R"({"hidden_act": 1})", "hidden_act must be a string, got 1"},
      {llama, R"({"torch_dtype": 16})", "torch_dtype must be a string, got 16"},
      {llama, R"({"eos_token_id": "</s>"})",
       "eos_token_id must be an integer or a list of integers, got \"</s>\""},
      {llama, R"({"eos_token_id": [1, -2]})", "eos_token_id[1] must be >= 0, got -2"},
      {llama, R"({"eos_token_id": [1, [2]]})", "eos_token_id[1] must be an integer, got [2]"},
      {llama, R"({"eos_token_id": -1})", "eos_token_id must be >= 0, got -1"},
      {llama, R"({"bos_token_id": [1]})", "bos_token_id must be an integer, got [1]"},
      {kMistralV4, R"({"sliding_window": 0})", "sliding_window must be > 0, got 0"},
      {kQwen3V5, R"({"use_sliding_window": 1})", "use_sliding_window must be true or false, got 1"},
      {kQwen3V5, R"({"max_window_layers": -1})", "max_window_layers must be >= 0, got -1"},
      {kQwen3V5, R"({"layer_types": "full_attention"})",
       "layer_types must be a list of num_hidden_layers (3) names, got \"full_attention\""},
      {kQwen3V5, R"({"layer_types": ["full_attention"]})",
       "layer_types must be a list of num_hidden_layers (3) names, got [\"full_attention\"]"},
      {kQwen3V5, R"({"layer_types": ["full_attention", 1, "full_attention"]})",
       "layer_types[1] must be a string, got 1"},
      {kQwen3V5, R"({"use_sliding_window": false})",
       "layer_types[1] needs use_sliding_window and a sliding_window, got \"sliding_attention\""},
      {llama, R"({"rope_scaling": [1]})", "rope_scaling must be an object, got [1]"},
      {llama, R"({"rope_theta": 1})", "rope_theta must be >= 1.001, got 1"},
      {llama, R"({"rope_scaling": {"rope_type": "linear"}})", "rope_scaling.factor is missing"},
      {llama, R"({"rope_scaling": {"rope_type": "linear", "factor": null}})",
       "rope_scaling.factor is missing"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn"}})", "rope_scaling.factor is missing"},
      {llama, R"({"rope_scaling": {"rope_type": "linear", "factor": 0.5}})",
       "rope_scaling.factor must be >= 1, got 0.5"},
      {llama, R"({"rope_scaling": {"rope_type": 3}})",
       "rope_scaling.rope_type must be a string, got 3"},
      {llama, R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "high_freq_factor": 4}})",
       "rope_scaling.low_freq_factor is missing"},
      {llama, R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                  "high_freq_factor": 4}})",
       "rope_scaling.high_freq_factor must be > low_freq_factor (4), got 4.0"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_slow": 40}})",
       "rope_scaling.beta_fast must be >= beta_slow (40), got 32.0"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "attention_factor": 0}})",
       "rope_scaling.attention_factor must be >= 1e-06, got 0"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "mscale": -1}})",
       "rope_scaling.mscale must be >= 0, got -1"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "truncate": 1}})",
       "rope_scaling.truncate must be true or false, got 1"},
      {llama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 8,
                  "original_max_position_embeddings": 0}})",
       "rope_scaling.original_max_position_embeddings must be > 0, got 0"},
  };
  const std::vector<std::pair<std::string, int64_t>> sizes = {{"vocab_size", 1 << 24},
                                                              {"hidden_size", 1 << 17},
                                                              {"intermediate_size", 1 << 20},
                                                              {"num_hidden_layers", 1024},
                                                              {"num_attention_heads", 1024}};
  for (const auto& [name, max] : sizes) {
    const auto with = [&name = name](const std::string& value) {
      return absl::StrCat("{\"", name, "\": ", value, "}");
    };
    bad.push_back({llama, with("\"absent\""), name + " is missing"});
    bad.push_back({llama, with("null"), name + " is missing"});
    bad.push_back({llama, with("0"), name + " must be > 0, got 0"});
    bad.push_back({llama, with("1.5"), name + " must be an integer, got 1.5"});
    bad.push_back({llama, with("\"many\""), name + " must be an integer, got \"many\""});
    bad.push_back({llama, with("true"), name + " must be an integer, got true"});
    bad.push_back({llama, with(absl::StrCat(max + 1)),
                   absl::StrCat(name, " must be <= ", max, ", got ", max + 1)});
    bad.push_back({llama, with("18446744073709551615"),
                   absl::StrCat(name, " must be <= ", max, ", got 18446744073709551615")});
    bad.push_back(
        {llama, with("-9223372036854775808"), name + " must be > 0, got -9223372036854775808"});
  }
  for (const BadConfig& config : bad) {
    EXPECT_THAT(Patched(config.base, config.patch),
                StatusIs(kInvalid, "config.json: " + config.message))
        << config.patch;
  }
}

TEST(ModelConfig, UnsupportedThingsAreNamedWithWhatIsSupported) {
  const std::vector<BadConfig> unsupported = {
      {kLlamaV4, R"({"model_type": "gemma3"})",
       "model_type \"gemma3\" is not supported (supported: llama, qwen2, qwen3, mistral)"},
      {kLlamaV4, R"({"hidden_act": "gelu"})",
       "hidden_act \"gelu\" is not supported (supported: silu)"},
      {kLlamaV4, R"({"torch_dtype": "float64"})",
       "torch_dtype \"float64\" is not supported (supported: bfloat16, float16, float32)"},
      {kLlamaV4, R"({"rope_scaling": {"rope_type": "longrope", "factor": 2}})",
       "rope_scaling.rope_type \"longrope\" is not supported (supported: default, linear, dynamic, "
       "llama3, yarn)"},
      {kLlamaV4, R"({"rope_scaling": {"type": "mrope"}})",
       "rope_scaling.type \"mrope\" is not supported (supported: default, linear, dynamic, llama3, "
       "yarn)"},
      {kQwen3V5, R"({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}})",
       "rope_parameters for full_attention is not supported (supported: one for all layers)"},
      {kQwen3V5, R"({"partial_rotary_factor": 0.5})",
       "partial_rotary_factor 0.5 is not supported (supported: 1.0)"},
      {kQwen3V5, R"({"rope_parameters": {"partial_rotary_factor": 0.25}})",
       "partial_rotary_factor 0.25 is not supported (supported: 1.0)"},
      {kQwen3V5, R"({"layer_types": ["full_attention", "chunked_attention", "full_attention"]})",
       "layer_types[1] \"chunked_attention\" is not supported (supported: full_attention, "
       "sliding_attention)"},
      {kMistralV4, R"({"num_hidden_layers": 1, "layer_types": ["full_attention"]})",
       "model_type mistral with layer_types[0] \"full_attention\" is not supported (supported: "
       "sliding_attention)"},
      {kLlamaV4, R"({"num_hidden_layers": 1, "layer_types": ["sliding_attention"]})",
       "model_type llama with layer_types[0] \"sliding_attention\" is not supported (supported: "
       "full_attention)"},
      {kLlamaV4, R"({"quantization_config": {"quant_method": "gptq", "bits": 4}})",
       "quantization_config with quant_method \"gptq\" is not supported (supported: unquantized "
       "float32, float16 and bfloat16 weights)"},
  };
  for (const BadConfig& config : unsupported) {
    EXPECT_THAT(Patched(config.base, config.patch),
                StatusIs(kUnimplemented, "config.json: " + config.message))
        << config.patch;
  }
  // What says the same as the default is fine.
  SA_EXPECT_OK(Patched(kLlamaV4, R"({"quantization_config": null, "partial_rotary_factor": 1.0,
      "num_hidden_layers": 1, "layer_types": ["full_attention"], "sliding_window": 5})"));
}

TEST(ModelConfig, BrokenJson) {
  const auto error = [](absl::string_view text) { return ModelConfig::FromJson(text).status(); };
  EXPECT_THAT(error(""), StatusIs(kInvalid, "config.json: not valid JSON: empty"));
  EXPECT_THAT(error("{"), StatusIs(kInvalid, StartsWith("config.json: not valid JSON at byte ")));
  EXPECT_THAT(error("[]"), StatusIs(kInvalid, "config.json: must be a JSON object, got []"));
  EXPECT_THAT(error(R"({"a": 1, "a": 2})"), StatusIs(kInvalid, "config.json: duplicate key \"a\""));
  EXPECT_THAT(error(absl::string_view("{}\0{}", 5)), StatusIs(kInvalid));
}

TEST(ModelConfig, FromFileNamesTheFile) {
  const std::string path =
      (std::filesystem::path(::testing::TempDir()) / "model_config_test.json").string();
  std::ofstream(path) << kLlamaV4;
  SA_EXPECT_OK(ModelConfig::FromFile(path));
  std::ofstream(path) << R"({"model_type": "llama"})";
  EXPECT_THAT(ModelConfig::FromFile(path), StatusIs(kInvalid, path + ": vocab_size is missing"));
  std::filesystem::remove(path);
  EXPECT_THAT(ModelConfig::FromFile(path),
              StatusIs(absl::StatusCode::kNotFound, path + ": no such file"));
  EXPECT_THAT(ModelConfig::FromFile(::testing::TempDir()),
              StatusIs(kInvalid, EndsWith("not a readable file")));
}

}  // namespace
}  // namespace sparse_attention
