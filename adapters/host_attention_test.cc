#include "adapters/host_attention.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

using ::testing::Each;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;

std::unique_ptr<const HostAttention> Make(const char* pipeline) {
  const absl::StatusOr<PipelineConfig> config = PipelineFromJson(Json::parse(pipeline));
  SA_CHECK_OK(config);
  absl::StatusOr<std::unique_ptr<const HostAttention>> attention = HostAttention::Create(*config);
  SA_CHECK_OK(attention);
  return *std::move(attention);
}

AttentionInputs Inputs(int64_t queries = 3, at::ScalarType type = at::kFloat) {
  RandomTensors random(17);
  AttentionInputs in;
  in.q = random.Normal({1, 4, queries, 16}, type);
  in.k = random.Normal({1, 2, 200, 16}, type);
  in.v = random.Normal({1, 2, 200, 16}, type);
  in.causal = true;
  in.first_query_position = 200 - queries;
  return in;
}

at::Tensor Dense(const AttentionInputs& in) {
  const absl::StatusOr<AttentionState> state = DenseAttention(in);
  SA_CHECK_OK(state);
  return state->out;
}

const Tolerance kRounding = {.relative_eps = 8, .absolute_eps = 32};

TEST(HostAttention, AFullBudgetIsDenseAttention) {
  const AttentionInputs in = Inputs();
  AttentionSession session;
  for (const char* pipeline : {R"({"type": "research", "maskers": []})",
                               R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 4},
                                            {"type": "oracle_top_k", "heavy_size": 1.0}]})"}) {
    EXPECT_THAT(Make(pipeline)->Attend(in, &session),
                IsOkAndHolds(TensorNear(Dense(in), kRounding)))
        << pipeline;
    session.Reset();
  }
}

TEST(HostAttention, SinkAndLocalIsNot) {
  const AttentionInputs in = Inputs();
  const auto attention = Make(
      R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 4},
                                          {"type": "local", "window_size": 8}]})");
  AttentionSession session;
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, attention->Attend(in, &session));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor error, RelativeOutputError(out, Dense(in)));
  EXPECT_GT(error.min().item<double>(), 0.05);
}

TEST(HostAttention, ReturnsTheTypeOfTheQueries) {
  const AttentionInputs in = Inputs(3, at::kBFloat16);
  AttentionSession session;
  for (const char* pipeline :
       {R"({"type": "research", "maskers": []})",
        R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 4}]})"}) {
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, Make(pipeline)->Attend(in, &session));
    EXPECT_EQ(out.scalar_type(), at::kBFloat16);
    EXPECT_EQ(out.sizes(), in.q.sizes());
  }
}

TEST(HostAttention, LayersCanBeDense) {
  const auto attention = Make(
      R"({"type": "research", "layers": [{"layers": "0-1", "dense": true},
          {"layers": "2-", "maskers": [{"type": "sink", "sink_size": 4}]}]})");
  EXPECT_TRUE(attention->IsDense(/*layers=*/2, /*query_heads=*/4));
  EXPECT_FALSE(attention->IsDense(/*layers=*/3, /*query_heads=*/4));
  EXPECT_TRUE(attention->IsDenseLayer(/*layer=*/1, /*query_heads=*/4));
  EXPECT_FALSE(attention->IsDenseLayer(/*layer=*/2, /*query_heads=*/4));
  AttentionSession session;
  AttentionInputs in = Inputs();
  const at::Tensor dense = Dense(in);
  for (int64_t layer = 0; layer < 4; ++layer) {
    in.layer = layer;
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, attention->Attend(in, &session));
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor error, RelativeOutputError(out, dense));
    if (layer < 2) {
      EXPECT_LT(error.max().item<double>(), 1e-5) << layer;
    } else {
      EXPECT_GT(error.min().item<double>(), 0.05) << layer;
    }
  }
}

TEST(HostAttention, MeasuresDenseAndSparseLayersAlike) {
  const auto attention = Make(
      R"({"type": "research", "layers": [{"layers": "0", "dense": true},
          {"layers": "1-", "maskers": [{"type": "sink", "sink_size": 20}]}]})");
  MemorySink sink;
  AttentionSession session;
  const AttentionFunction attend = attention->Bind(&session, &sink);
  AttentionInputs in = Inputs();
  SA_EXPECT_OK(attend(in));
  EXPECT_THAT(sink.Values(kResearchAttentionDensity), ::testing::ElementsAre(1));
  EXPECT_THAT(sink.Values(kKvRowsFraction), ::testing::ElementsAre(1));
  EXPECT_THAT(sink.Values(kIndexBytesFraction), ::testing::ElementsAre(0));
  // A value for each of 4 heads and 3 queries.
  EXPECT_THAT(sink.Values(kResearchAttentionOutputError), ::testing::AllOf(SizeIs(12), Each(0)));
  EXPECT_EQ(sink.records().back().query_position, 199);
  EXPECT_EQ(sink.records().back().head, 3);
  sink.Clear();
  in.layer = 1;
  SA_EXPECT_OK(attend(in));
  EXPECT_THAT(sink.Values(kResearchAttentionDensity),
              ::testing::ElementsAre(::testing::AllOf(Gt(0.09), Lt(0.11))));
  EXPECT_THAT(sink.Values(kResearchAttentionOutputError),
              ::testing::AllOf(SizeIs(12), Each(Gt(0.01))));
}

// The same answers from both engines, step by step through a growing cache that is cut back.
TEST(HostAttention, BothEnginesGiveTheSame) {
  const auto create = [](EngineType type) {
    PipelineConfig config;
    config.type = type;
    config.rules.push_back({{},
                            {},
                            {Json{{"type", "sink"}, {"sink_size", 4}},
                             Json{{"type", "oracle_top_k"}, {"heavy_size", 9}},
                             Json{{"type", "random_sampling"}, {"sampling_rate", 0.3}}}});
    return *HostAttention::Create(config);
  };
  const auto research = create(EngineType::kResearch), efficient = create(EngineType::kEfficient);
  AttentionSession research_session, efficient_session;
  RandomTensors random(3);
  const at::Tensor k = random.Normal({1, 2, 120, 16}), v = random.Normal({1, 2, 120, 16});
  for (const auto& [keys, queries] : std::vector<std::pair<int64_t, int64_t>>{
           {80, 0}, {87, 7}, {88, 1}, {89, 1}, {84, 4}, {120, 36}}) {
    AttentionInputs in;
    in.k = k.narrow(2, 0, keys);
    in.v = v.narrow(2, 0, keys);
    in.q = random.Normal({1, 8, queries, 16});
    in.causal = true;
    if (queries == 0) {
      SA_ASSERT_OK(research->Prepare(in, &research_session));
      SA_ASSERT_OK(efficient->Prepare(in, &efficient_session));
      continue;
    }
    if (keys == 84) {
      research_session.Rewind();
      efficient_session.Rewind();
    }
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor expected, research->Attend(in, &research_session));
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, efficient->Attend(in, &efficient_session));
    EXPECT_THAT(out, TensorNear(expected, {.absolute_eps = 64})) << keys;
  }
}

TEST(HostAttention, RefusesWhatItCannotRun) {
  PipelineConfig efficient;
  efficient.type = EngineType::kEfficient;
  efficient.rules.push_back(
      {{}, {}, {Json{{"type", "random_sampling"}, {"sampling_rate", 0.1}, {"estimator", "hub"}}}});
  EXPECT_THAT(HostAttention::Create(efficient),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("the efficient engine")));
  PipelineConfig wrong;
  wrong.rules.push_back({{}, {}, {Json{{"type", "sinc"}}}});
  EXPECT_THAT(HostAttention::Create(wrong),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("sinc")));
  AttentionSession session;
  AttentionInputs in = Inputs();
  in.k = in.k.narrow(3, 0, 8);
  EXPECT_THAT(Make(R"({"type": "research", "maskers": []})")->Attend(in, &session),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("k must")));
}

}  // namespace
}  // namespace sparse_attention
