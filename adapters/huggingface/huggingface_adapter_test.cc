#include "adapters/huggingface/huggingface_adapter.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "adapters/huggingface/tiny_checkpoint.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class HuggingFaceAdapterTest : public ::testing::Test {
 protected:
  HuggingFaceAdapterTest() {
    SA_CHECK_OK(WriteTinyCheckpoint(folder_, TinyConfig({{"vocab_size", 258}})));
    SA_CHECK_OK(WriteTinyTokenizer(folder_));
  }
  std::unique_ptr<const HuggingFaceAdapter> Load(const char* maskers = "[]") {
    HuggingFaceOptions options;
    options.pipeline =
        *PipelineFromJson(Json{{"type", "research"}, {"maskers", Json::parse(maskers)}});
    absl::StatusOr<std::unique_ptr<const HuggingFaceAdapter>> adapter =
        HuggingFaceAdapter::Load(folder_, options);
    SA_CHECK_OK(adapter);
    return *std::move(adapter);
  }

  const std::string folder_ = ::testing::TempDir() + "/adapter";
  const Request request_ = {
      "It was the best of times, it was the worst of times, it was the age of wisdom.",
      {"What was it?", "Whose age was it?"},
      " It was"};
};

constexpr char kSinkLocal[] =
    R"([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 4}])";

TEST_F(HuggingFaceAdapterTest, AnswersEveryQuestionAsIfItWereTheOnlyOne) {
  const auto adapter = Load();
  SA_ASSERT_OK_AND_ASSIGN(const Response both, adapter->ProcessRequest(request_));
  ASSERT_THAT(both.answers, SizeIs(2));
  EXPECT_EQ(both.context_tokens, 1 + static_cast<int64_t>(request_.context.size()));
  for (size_t i = 0; i < 2; ++i) {
    const Request alone = {request_.context, {request_.questions[i]}, request_.answer_prefix};
    SA_ASSERT_OK_AND_ASSIGN(const Response one, adapter->ProcessRequest(alone));
    EXPECT_EQ(one.answers[0].text, both.answers[i].text);
    EXPECT_EQ(one.answers[0].generation.tokens, both.answers[i].generation.tokens);
    // Every byte is a token; there is no begin-of-text before a question.
    EXPECT_EQ(both.answers[i].generation.question_tokens,
              static_cast<int64_t>(request_.questions[i].size() + request_.answer_prefix.size()));
  }
}

TEST_F(HuggingFaceAdapterTest, BeginOfTextComesOnceAndOnlyBeforeTheContext) {
  const auto adapter = Load();
  EXPECT_THAT(adapter->EncodeContext("ab"), IsOkAndHolds(ElementsAre(kTinyBos, 'a', 'b')));
  EXPECT_THAT(adapter->EncodeContext("<bos>ab"), IsOkAndHolds(ElementsAre(kTinyBos, 'a', 'b')));
  EXPECT_THAT(adapter->EncodeContext(""), IsOkAndHolds(ElementsAre(kTinyBos)));
  EXPECT_THAT(adapter->EncodeQuestion("ab"), IsOkAndHolds(ElementsAre('a', 'b')));
}

TEST_F(HuggingFaceAdapterTest, ModesSayWhichPhasesAreSparse) {
  const auto adapter = Load(kSinkLocal);
  const GenerationOptions options = {.max_new_tokens = 8, .ignore_eos = true};
  const auto records = [&](SparseMode mode) {
    MemorySink sink;
    SA_CHECK_OK(adapter->ProcessRequest(request_, options, mode, &sink));
    return sink.Values(kResearchAttentionDensity);
  };
  // 3 layers and 2 questions; a question's pass gives the first token.
  EXPECT_THAT(records(SparseMode::kAnswer), SizeIs(3 * 2 * 7));
  EXPECT_THAT(records(SparseMode::kQuestionAndAnswer), SizeIs(3 * 2 * 8));
  EXPECT_THAT(records(SparseMode::kEverything), SizeIs(3 * (1 + 2 * 8)));
  for (double density : records(SparseMode::kDense)) EXPECT_EQ(density, 1);

  const auto text = [&](const HuggingFaceAdapter& a, SparseMode mode) {
    const absl::StatusOr<Response> response = a.ProcessRequest(request_, options, mode);
    SA_CHECK_OK(response);
    return response->answers[0].generation.tokens;
  };
  EXPECT_EQ(text(*adapter, SparseMode::kDense), text(*Load(), SparseMode::kQuestionAndAnswer));
  EXPECT_NE(text(*adapter, SparseMode::kDense), text(*adapter, SparseMode::kQuestionAndAnswer));
}

TEST_F(HuggingFaceAdapterTest, StreamsTheTextThatItReturns) {
  const auto adapter = Load();
  std::vector<std::string> streamed(2);
  GenerationOptions options = {.max_new_tokens = 40, .ignore_eos = true};
  options.on_text = [&](int64_t question, absl::string_view piece) {
    streamed[question] += std::string(piece);
  };
  SA_ASSERT_OK_AND_ASSIGN(const Response response, adapter->ProcessRequest(request_, options));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(streamed[i], response.answers[i].text);
    EXPECT_THAT(response.answers[i].generation.tokens, SizeIs(40));
    EXPECT_THAT(adapter->tokenizer().Decode(response.answers[i].generation.tokens),
                IsOkAndHolds(streamed[i]));
  }
}

TEST_F(HuggingFaceAdapterTest, StopStringsCutTheAnswer) {
  const auto adapter = Load();
  GenerationOptions options = {.max_new_tokens = 40, .ignore_eos = true};
  SA_ASSERT_OK_AND_ASSIGN(const Response free, adapter->ProcessRequest(request_, options));
  const std::string text = free.answers[0].text;
  // A printable character from the middle of the answer.
  size_t at = text.size() / 4;
  while (at < text.size() && (text[at] < ' ' || text[at] > '~')) ++at;
  ASSERT_LT(at, text.size());
  options.stop_strings = {text.substr(at, 1)};
  SA_ASSERT_OK_AND_ASSIGN(const Response cut, adapter->ProcessRequest(request_, options));
  EXPECT_EQ(cut.answers[0].text, text.substr(0, text.find(text[at])));
  EXPECT_EQ(cut.answers[0].generation.stop_reason, StopReason::kStopString);
  EXPECT_LT(cut.answers[0].generation.tokens.size(), 40u);
}

TEST_F(HuggingFaceAdapterTest, EndOfTextComesFromTheGenerationConfig) {
  const auto adapter = Load();
  const GenerationOptions options = {.max_new_tokens = 10, .ignore_eos = true};
  SA_ASSERT_OK_AND_ASSIGN(const Response free, adapter->ProcessRequest(request_, options));
  const int32_t third = free.answers[0].generation.tokens[2];
  std::ofstream(folder_ + "/generation_config.json") << Json{{"eos_token_id", {third, 5}}};
  const auto stops = Load();
  SA_ASSERT_OK_AND_ASSIGN(const Response response,
                          stops->ProcessRequest(request_, {.max_new_tokens = 10}));
  EXPECT_EQ(response.answers[0].generation.stop_reason, StopReason::kEndOfText);
  EXPECT_EQ(response.answers[0].generation.tokens.back(), third);
  EXPECT_LE(response.answers[0].generation.tokens.size(), 3u);
  SA_ASSERT_OK_AND_ASSIGN(const Response ignored, stops->ProcessRequest(request_, options));
  EXPECT_EQ(ignored.answers[0].generation.tokens, free.answers[0].generation.tokens);
  std::filesystem::remove(folder_ + "/generation_config.json");
}

TEST_F(HuggingFaceAdapterTest, IdsThatPadTheVocabularyHaveNoText) {
  SA_ASSERT_OK(WriteTinyCheckpoint(folder_, TinyConfig({{"vocab_size", 2000}})));
  const auto adapter = Load();
  SA_ASSERT_OK_AND_ASSIGN(const Response response,
                          adapter->ProcessRequest(request_, {.max_new_tokens = 20}));
  const std::vector<int32_t>& tokens = response.answers[0].generation.tokens;
  std::vector<int32_t> known;
  for (int32_t token : tokens) {
    if (token < adapter->tokenizer().vocab_size()) known.push_back(token);
  }
  EXPECT_LT(known.size(), tokens.size());
  EXPECT_THAT(adapter->tokenizer().Decode(known), IsOkAndHolds(response.answers[0].text));
}

TEST_F(HuggingFaceAdapterTest, IsAModelAdapter) {
  const auto adapter = Load(kSinkLocal);
  const ModelAdapter& base = *adapter;
  EXPECT_FALSE(base.attention().IsDense(3, 4));
  AttentionSession session;
  EXPECT_TRUE(base.CustomAttentionFunction(&session) != nullptr);
}

TEST_F(HuggingFaceAdapterTest, RefusesBadRequestsAndFolders) {
  const auto adapter = Load();
  EXPECT_THAT(adapter->ProcessRequest({"context", {}, ""}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("request.questions")));
  EXPECT_THAT(adapter->ProcessRequest({"context", {"fine", ""}, ""}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("request.questions[1]"), HasSubstr("no tokens"))));
  EXPECT_THAT(adapter->ProcessRequest({"\xff", {"fine"}, ""}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adapter->ProcessRequest(request_, {.max_new_tokens = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_new_tokens")));
  SA_ASSERT_OK(
      WriteTinyCheckpoint(folder_, TinyConfig({{"vocab_size", 257}, {"eos_token_id", 1}})));
  EXPECT_THAT(HuggingFaceAdapter::Load(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("ids up to 257"), HasSubstr("vocab_size"))));
  std::filesystem::remove(folder_ + "/tokenizer.json");
  EXPECT_THAT(HuggingFaceAdapter::Load(folder_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.json")));
}

}  // namespace
}  // namespace sparse_attention
