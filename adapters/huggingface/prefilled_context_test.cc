#include "adapters/huggingface/prefilled_context.h"

#include <vector>

#include "adapters/huggingface/tiny_checkpoint.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<int32_t> Tokens(int64_t count, int32_t start) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((start + i * i * 7) % 256);
  return tokens;
}

std::unique_ptr<const HostAttention> Pipeline(const char* maskers) {
  const absl::StatusOr<PipelineConfig> config =
      PipelineFromJson(Json{{"type", "research"}, {"maskers", Json::parse(maskers)}});
  SA_CHECK_OK(config);
  return *HostAttention::Create(*config);
}

class PrefilledContextTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string folder = ::testing::TempDir() + "/prefilled";
    SA_CHECK_OK(WriteTinyCheckpoint(folder, TinyConfig()));
    model_ = *DecoderModel::Load(folder);
  }
  static void TearDownTestSuite() { model_.reset(); }

  std::unique_ptr<PrefilledContext> Context(const PrefillOptions& options = {}) {
    absl::StatusOr<std::unique_ptr<PrefilledContext>> context =
        PrefilledContext::Create(model_.get(), context_tokens_, options);
    SA_CHECK_OK(context);
    return *std::move(context);
  }
  std::vector<int32_t> Answer(PrefilledContext* context, const HostAttention& attention,
                              int32_t start = 11) {
    const absl::StatusOr<Generation> result =
        context->Answer(Tokens(9, start), attention, {.max_new_tokens = 24});
    SA_CHECK_OK(result);
    return result->tokens;
  }

  static std::unique_ptr<const DecoderModel> model_;
  const std::vector<int32_t> context_tokens_ = Tokens(60, 3);
  const std::unique_ptr<const HostAttention> dense_ = Pipeline("[]");
  const std::unique_ptr<const HostAttention> sparse_ =
      Pipeline(R"([{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 4}])");
};

std::unique_ptr<const DecoderModel> PrefilledContextTest::model_;

TEST_F(PrefilledContextTest, AnswersDoNotInfluenceOneAnother) {
  const std::vector<int32_t> dense = Answer(Context().get(), *dense_);
  const std::vector<int32_t> sparse = Answer(Context().get(), *sparse_);
  EXPECT_NE(dense, sparse);
  EXPECT_THAT(dense, SizeIs(24));
  const auto context = Context();
  EXPECT_EQ(Answer(context.get(), *sparse_), sparse);
  EXPECT_EQ(Answer(context.get(), *dense_), dense);
  Answer(context.get(), *dense_, /*start=*/99);
  EXPECT_EQ(Answer(context.get(), *dense_), dense);
  EXPECT_EQ(Answer(context.get(), *sparse_), sparse);
  EXPECT_EQ(context->tokens(), 60);
}

// Indexes over the context are built once and serve every question, as if it were the first.
TEST_F(PrefilledContextTest, IndexesOfTheContextServeEveryQuestion) {
  for (const char* masker :
       {R"([{"type": "pq_cache", "heavy_size": 8, "pq_group_factor": 2, "pq_bits": 3,
            "kmeans_iter": 5, "init_offset": 0, "metric": "euclidean"}])",
        R"([{"type": "quest_top_k", "heavy_size": 16, "page_size": 4}])",
        R"([{"type": "magic_pig", "lsh_l": 6, "lsh_k": 3}])",
        R"([{"type": "snap_kv", "heavy_size": 8, "window_size": 4}])"}) {
    SCOPED_TRACE(masker);
    const auto attention = Pipeline(masker);
    const std::vector<int32_t> first = Answer(Context().get(), *attention, 11);
    const std::vector<int32_t> second = Answer(Context().get(), *attention, 99);
    const auto context = Context();
    EXPECT_EQ(Answer(context.get(), *attention, 11), first);
    EXPECT_EQ(Answer(context.get(), *attention, 99), second);
    EXPECT_EQ(Answer(context.get(), *sparse_, 99), Answer(Context().get(), *sparse_, 99));
    EXPECT_EQ(Answer(context.get(), *attention, 11), first);
  }
}

TEST_F(PrefilledContextTest, OneLongQuestionIsTheSameAsContextAndQuestion) {
  std::vector<int32_t> whole = context_tokens_;
  const std::vector<int32_t> question = Tokens(9, 11);
  whole.insert(whole.end(), question.begin(), question.end());
  SA_ASSERT_OK_AND_ASSIGN(const auto empty, PrefilledContext::Create(model_.get(), {}));
  EXPECT_FALSE(empty->next_logits().defined());
  SA_ASSERT_OK_AND_ASSIGN(const Generation result,
                          empty->Answer(whole, *dense_, {.max_new_tokens = 24}));
  EXPECT_EQ(result.question_tokens, 69);
  EXPECT_EQ(result.tokens, Answer(Context().get(), *dense_));
}

TEST_F(PrefilledContextTest, ACacheThatHasToGrowGivesTheSame) {
  EXPECT_EQ(Answer(Context({.room = 0}).get(), *dense_), Answer(Context().get(), *dense_));
}

TEST_F(PrefilledContextTest, WhichPhasesAreSparse) {
  const auto context = Context();
  MemorySink question_and_answer;
  AnswerOptions options = {.max_new_tokens = 4, .sink = &question_and_answer};
  SA_ASSERT_OK(context->Answer(Tokens(9, 11), *sparse_, options));
  // 3 layers, the question's pass and 3 more tokens.
  EXPECT_THAT(question_and_answer.Values(kResearchAttentionDensity), SizeIs(3 * 4));

  MemorySink answer;
  options.dense_question = true;
  options.sink = &answer;
  SA_ASSERT_OK_AND_ASSIGN(const Generation dense_first,
                          context->Answer(Tokens(9, 11), *sparse_, options));
  EXPECT_THAT(answer.Values(kResearchAttentionDensity), SizeIs(3 * 3));
  SA_ASSERT_OK_AND_ASSIGN(const Generation dense,
                          context->Answer(Tokens(9, 11), *dense_, {.max_new_tokens = 1}));
  EXPECT_EQ(dense_first.tokens[0], dense.tokens[0]);

  MemorySink everything;
  const auto sparse_context =
      Context({.tokens_per_pass = 16, .attention = sparse_.get(), .sink = &everything});
  // 60 tokens in 4 passes.
  EXPECT_THAT(everything.Values(kResearchAttentionDensity), SizeIs(3 * 4));
  EXPECT_NE(Answer(sparse_context.get(), *dense_), Answer(Context().get(), *dense_));
}

TEST_F(PrefilledContextTest, StopsWhereItShould) {
  const auto context = Context();
  const std::vector<int32_t> free = Answer(context.get(), *dense_);
  AnswerOptions options = {.max_new_tokens = 24, .eos_token_ids = {free[0]}};
  SA_ASSERT_OK_AND_ASSIGN(Generation result, context->Answer(Tokens(9, 11), *dense_, options));
  EXPECT_THAT(result.tokens, ::testing::ElementsAre(free[0])) << "the first token counts";
  EXPECT_EQ(result.stop_reason, StopReason::kEndOfText);

  std::vector<int32_t> seen;
  options = {.max_new_tokens = 24};
  options.on_token = [&](int32_t token) {
    seen.push_back(token);
    return seen.size() < 5;
  };
  SA_ASSERT_OK_AND_ASSIGN(result, context->Answer(Tokens(9, 11), *dense_, options));
  EXPECT_EQ(result.stop_reason, StopReason::kCallback);
  EXPECT_EQ(seen, std::vector<int32_t>(free.begin(), free.begin() + 5));
  EXPECT_EQ(result.tokens, seen);

  SA_ASSERT_OK_AND_ASSIGN(result, context->Answer(Tokens(9, 11), *dense_, {.max_new_tokens = 1}));
  EXPECT_EQ(result.stop_reason, StopReason::kMaxNewTokens);
  EXPECT_THAT(result.tokens, SizeIs(1));
}

TEST_F(PrefilledContextTest, LogitsOfATextForPerplexity) {
  const auto context = Context();
  const std::vector<int32_t> text = Tokens(30, 50);
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor dense, context->Logits(text, *dense_));
  EXPECT_EQ(dense.sizes(), (std::vector<int64_t>{30, 264}));
  const auto full = Pipeline(R"([{"type": "oracle_top_k", "heavy_size": 1.0}])");
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor same, context->Logits(text, *full));
  EXPECT_LT(same.sub(dense).abs().max().item<double>(), 1e-4);
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor other, context->Logits(text, *sparse_));
  EXPECT_GT(other.sub(dense).abs().max().item<double>(), 0.1);
  MemorySink sink;
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor pieces,
                          context->Logits(text, *dense_, {.tokens_per_pass = 8, .sink = &sink}));
  EXPECT_LT(pieces.sub(dense).abs().max().item<double>(), 1e-4);
  EXPECT_THAT(sink.Values(kResearchAttentionDensity), SizeIs(3 * 4));
  // The token after the context, as if it were read with it.
  SA_ASSERT_OK_AND_ASSIGN(const auto shorter,
                          PrefilledContext::Create(model_.get(), Tokens(59, 3)));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor last,
                          shorter->Logits({context_tokens_.back()}, *dense_));
  EXPECT_LT(last[0].sub(context->next_logits()).abs().max().item<double>(), 1e-4);
}

TEST_F(PrefilledContextTest, RefusesBadCalls) {
  const auto context = Context();
  EXPECT_THAT(context->Answer({}, *dense_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no tokens")));
  EXPECT_THAT(context->Answer({1}, *dense_, {.max_new_tokens = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("max_new_tokens must be >= 1, got 0")));
  EXPECT_THAT(context->Answer({9999}, *dense_), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(context->Logits({}, *dense_), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(PrefilledContext::Create(model_.get(), {-5}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // An error leaves the context as it was.
  EXPECT_EQ(Answer(context.get(), *dense_), Answer(Context().get(), *dense_));
}

}  // namespace
}  // namespace sparse_attention
