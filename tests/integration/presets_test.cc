// Every preset in configs/ answers on the shipped model, weights of indexes included.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "adapters/huggingface/huggingface_adapter.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

std::vector<std::string> Presets() {
  std::vector<std::string> presets;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() == ".json") presets.push_back(entry.path().stem());
  }
  std::sort(presets.begin(), presets.end());
  return presets;
}

class Preset : public ::testing::TestWithParam<std::string> {};

TEST_P(Preset, AnswersOnTheShippedModel) {
  HuggingFaceOptions options;
  SA_ASSERT_OK_AND_ASSIGN(options.pipeline, PipelineFromFile("configs/" + GetParam() + ".json"));
  EXPECT_NE(options.pipeline.description, "");
  SA_ASSERT_OK_AND_ASSIGN(const auto adapter,
                          HuggingFaceAdapter::Load("models/retrieval-6m", options));
  Request request;
  for (int i = 0; i < 120; ++i) request.context += "The ships lay in the harbour that morning. ";
  request.questions = {"What lay there?", "When was that?"};
  SA_ASSERT_OK_AND_ASSIGN(const Response response,
                          adapter->ProcessRequest(request, {.max_new_tokens = 4}));
  EXPECT_EQ(response.answers.size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Configs, Preset, ::testing::ValuesIn(Presets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sparse_attention
