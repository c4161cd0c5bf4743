#include "adapters/huggingface/generation_config.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;

ModelConfig Model() {
  ModelConfig model;
  model.eos_token_ids = {7};
  model.bos_token_id = 5;
  return model;
}

TEST(GenerationConfig, ReadsWhatIsThere) {
  SA_ASSERT_OK_AND_ASSIGN(
      const GenerationConfig config,
      GenerationConfig::FromJson(R"({"bos_token_id": 128000, "eos_token_id": [128001, 128009],
          "pad_token_id": 0, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20,
          "transformers_version": "4.45.0"})",
                                 Model()));
  EXPECT_THAT(config.eos_token_ids, ElementsAre(128001, 128009));
  EXPECT_THAT(config.bos_token_id, Optional(128000));
  EXPECT_THAT(config.pad_token_id, Optional(0));
  EXPECT_TRUE(config.do_sample);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_p, 0.9);
  EXPECT_EQ(config.top_k, 20);
}

TEST(GenerationConfig, FallsBackToTheModelAndTheDefaults) {
  for (const char* json : {"{}", R"({"eos_token_id": null, "bos_token_id": null, "pad_token_id": -1,
                                     "temperature": null, "top_p": null, "top_k": null})"}) {
    SA_ASSERT_OK_AND_ASSIGN(const GenerationConfig config,
                            GenerationConfig::FromJson(json, Model()));
    EXPECT_THAT(config.eos_token_ids, ElementsAre(7));
    EXPECT_THAT(config.bos_token_id, Optional(5));
    EXPECT_EQ(config.pad_token_id, std::nullopt);
    EXPECT_FALSE(config.do_sample);
    EXPECT_EQ(config.temperature, 1.0);
    EXPECT_EQ(config.top_p, 1.0);
    EXPECT_EQ(config.top_k, 50);
  }
  SA_ASSERT_OK_AND_ASSIGN(const GenerationConfig one,
                          GenerationConfig::FromJson(R"({"eos_token_id": 3})", Model()));
  EXPECT_THAT(one.eos_token_ids, ElementsAre(3));
  SA_ASSERT_OK_AND_ASSIGN(const GenerationConfig none,
                          GenerationConfig::FromJson(R"({"eos_token_id": []})", Model()));
  EXPECT_THAT(none.eos_token_ids, IsEmpty());
}

TEST(GenerationConfig, WrongValues) {
  const auto expect = [](const std::string& json, const std::string& message) {
    EXPECT_THAT(GenerationConfig::FromJson(json, Model()),
                StatusIs(absl::StatusCode::kInvalidArgument, "generation_config.json: " + message));
  };
  expect(R"({"eos_token_id": "x"})",
         "eos_token_id must be an integer or a list of integers, got \"x\"");
  expect(R"({"eos_token_id": 4.0})",
         "eos_token_id must be an integer or a list of integers, got 4.0");
  expect(R"({"pad_token_id": -2})", "pad_token_id must be >= -1, got -2");
  expect(R"({"bos_token_id": 99999999})", "bos_token_id must be <= 16777215, got 99999999");
  expect(R"({"do_sample": 1})", "do_sample must be true or false, got 1");
  expect(R"({"temperature": -1})", "temperature must be >= 0, got -1");
  expect(R"({"temperature": 0, "do_sample": true})",
         "temperature must be > 0 where do_sample is true, got 0.0");
  expect(R"({"top_p": 0})", "top_p must be > 0, got 0.0");
  expect(R"({"top_p": 1.5})", "top_p must be <= 1, got 1.5");
  expect(R"({"top_k": -1})", "top_k must be >= 0, got -1");
  expect("[1]", "must be a JSON object, got [1]");
  SA_EXPECT_OK(GenerationConfig::FromJson(R"({"temperature": 0})", Model()));
}

TEST(GenerationConfig, AFolderWithoutTheFileIsFine) {
  const std::string folder =
      (std::filesystem::path(::testing::TempDir()) / absl::StrCat("generation_", getpid()))
          .string();
  std::filesystem::create_directory(folder);
  SA_ASSERT_OK_AND_ASSIGN(const GenerationConfig absent,
                          GenerationConfig::FromFolder(folder, Model()));
  EXPECT_THAT(absent.eos_token_ids, ElementsAre(7));
  const std::string path = folder + "/generation_config.json";
  std::ofstream(path) << R"({"eos_token_id": 9})";
  SA_ASSERT_OK_AND_ASSIGN(const GenerationConfig present,
                          GenerationConfig::FromFolder(folder, Model()));
  EXPECT_THAT(present.eos_token_ids, ElementsAre(9));
  std::ofstream(path) << R"({"top_k": -1})";
  EXPECT_THAT(GenerationConfig::FromFolder(folder, Model()),
              StatusIs(absl::StatusCode::kInvalidArgument, path + ": top_k must be >= 0, got -1"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace sparse_attention
