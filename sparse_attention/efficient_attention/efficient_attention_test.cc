#include "sparse_attention/efficient_attention/efficient_attention.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/numeric_law.h"
#include "sparse_attention/attention/random_attention.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/efficient_attention/cpu_twins.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/research_attention/maskers/fixed/sink.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

Json Parsed(const std::string& text) { return Json::parse(text); }

// Entries of a pipeline with budgets of every kind.
Json RandomFixed(RandomTensors& random) {
  const auto budget = [&](int64_t most) -> Json {
    if (random.Chance(0.5)) return random.Integer(1, most);
    return random.Real(0.001, 0.3);
  };
  switch (random.Integer(0, 3)) {
    case 0:
      return {{"type", "sink"}, {"sink_size", budget(200)}};
    case 1:
      return {{"type", "local"}, {"window_size", budget(200)}};
    case 2:
      return {{"type", "sink"}, {"sink_size", random.Integer(1, 64)}};
    default:
      return {{"type", "local"}, {"window_size", random.Integer(1, 64)}};
  }
}

Json RandomSampler(RandomTensors& random) {
  if (random.Chance(0.4)) {
    return {{"type", "random_sampling"}, {"sampling_rate", random.Real(0.01, 1)}};
  }
  Json entry = {{"type", "adaptive_sampling"},
                {"base_rate_sampling",
                 random.Chance(0.8) ? Json(random.Real(0.01, 0.3)) : Json(random.Integer(2, 40))},
                {"epsilon", random.Real(0.02, 0.5)},
                {"delta", random.Real(0.02, 0.3)},
                {"init_offset", random.Integer(0, 40)},
                {"local_offset", random.Integer(0, 40)}};
  if (random.Chance(0.3)) entry["guarantee"] = "output";
  return entry;
}

class RangesAndSamplers : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, RangesAndSamplers,
                         ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(toString(info.param)); });

// Ranges and samples are functions of positions and of the random streams: the sets are equal, the
// outputs obey the numeric law over them.
TEST_P(RangesAndSamplers, EqualTheResearchEngine) {
  std::vector<at::Tensor> outs, references, baselines;
  int budgets_off_by_one = 0;
  for (uint64_t seed = 0; seed < 90; ++seed) {
    const EngineCase problem = MakeEngineCase(seed, GetParam(), 800);
    const AttentionInputs& in = problem.inputs;
    RandomTensors random(seed + 1000);
    Json pipeline = {{"seed", random.Integer(0, 1 << 30)},
                     {"selection", random.Chance(0.5) ? "query_head" : "kv_group"},
                     {"maskers", Json::array()}};
    for (int64_t i = random.Integer(0, 3); i > 0; --i) {
      pipeline["maskers"].push_back(RandomFixed(random));
    }
    if (random.Chance(0.5)) pipeline["maskers"].push_back(RandomSampler(random));
    SCOPED_TRACE(problem.text + "\n" + pipeline.dump());
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(pipeline));
    AttentionSession research_session, session;
    SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected, research->Run(in, &research_session));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, in, &session));

    const at::Tensor weights = VisibleWeights(in, expected.mask);
    if (!at::allclose(result.mask.ToDense(), weights, 1e-5, 0)) {
      // A budget may differ by one key: compare the number of keys.
      const at::Tensor count = result.mask.ToActive().sum(-1);
      EXPECT_THAT(count.to(at::kDouble),
                  TensorNear(weights.gt(0).sum(-1), {.absolute_eps = 1 / 0x1p-52, .magnitude = 1}));
      EXPECT_GT(count.ne(weights.gt(0).sum(-1)).sum().item<int64_t>(), 0) << "other keys";
      ++budgets_off_by_one;
    }
    SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, result.mask));
    EXPECT_THAT(result.lse, TensorNear(reference.lse,
                                       {.relative_eps = 4, .absolute_eps = 2e4, .magnitude = 1}));
    outs.push_back(result.out.flatten());
    references.push_back(reference.out.flatten());
    baselines.push_back(PlainAttention(in, result.mask).flatten());
  }
  EXPECT_THAT(at::cat(outs), ObeysNumericLaw(at::cat(references), at::cat(baselines)));
  EXPECT_LE(budgets_off_by_one, 3);
}

TEST(EfficientAttention, TopKOfExactLogitsEqualsTheResearchEngine) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    // Small whole numbers: logits are exact in both engines, and many are equal.
    EngineCase problem = MakeEngineCase(seed, at::kFloat, 6000);
    AttentionInputs& in = problem.inputs;
    in.q = in.q.round();
    in.k = in.k.round();
    in.scale = 0.5;
    in.softcap.reset();
    RandomTensors random(seed + 2000);
    Json pipeline = {{"selection", random.Chance(0.5) ? "query_head" : "kv_group"},
                     {"group_reduce", random.OneOf<std::string>({"max", "sum"})},
                     {"maskers", Json::array()}};
    for (int64_t i = random.Integer(0, 4); i > 0; --i) {
      pipeline["maskers"].push_back(
          random.Chance(0.5)
              ? RandomFixed(random)
              : Json{{"type", "oracle_top_k"},
                     {"heavy_size", random.Chance(0.5) ? Json(random.Integer(1, 300))
                                                       : Json(random.Real(0.001, 0.5))}});
    }
    SCOPED_TRACE(problem.text + "\n" + pipeline.dump());
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(pipeline));
    AttentionSession research_session, session;
    SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected, research->Run(in, &research_session));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, in, &session));
    EXPECT_TRUE(result.mask.ToDense().equal(VisibleWeights(in, expected.mask)));
  }
}

// Causal holds everything where no masker has chosen a key, be it one that no query sees.
TEST(EfficientAttention, ChainsThatChooseNothingVisibleEqualTheResearchEngine) {
  const char* const pipelines[] = {
      R"({"maskers": [{"type": "sink", "sink_size": 5}, {"type": "causal"}]})",
      R"({"maskers": [{"type": "sink", "sink_size": 0.001}, {"type": "causal"}]})",
      R"({"maskers": [{"type": "causal"}, {"type": "sink", "sink_size": 5}]})",
      R"({"maskers": [{"type": "oracle_top_p", "top_p": 0.0}, {"type": "causal"}]})",
      R"({"maskers": [{"type": "oracle_top_k", "heavy_size": 1}, {"type": "causal"}]})",
      R"({"maskers": [{"type": "sink", "sink_size": 80},
                      {"type": "adaptive_sampling", "base_rate_sampling": 0, "epsilon": 0.3,
                       "delta": 0.3, "init_offset": 0, "local_offset": 0}]})",
  };
  RandomTensors random(13);
  AttentionInputs in;
  in.q = random.Normal({1, 4, 1, 32});
  in.k = random.Normal({1, 2, 100, 32});
  in.v = random.Normal({1, 2, 100, 32});
  in.sliding_window = 30;
  for (const char* pipeline : pipelines) {
    SCOPED_TRACE(pipeline);
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(Parsed(pipeline)));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(Parsed(pipeline)));
    AttentionSession research_session, session;
    SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected, research->Run(in, &research_session));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, in, &session));
    EXPECT_TRUE(result.mask.ToDense().equal(VisibleWeights(in, expected.mask)));
  }
}

// Both engines tell a sink the same of a step.
TEST(EfficientAttention, LogsWhatTheResearchEngineLogs) {
  const char* const pipelines[] = {
      R"({"maskers": [{"type": "sink", "sink_size": 5}, {"type": "local", "window_size": 7}]})",
      R"({"maskers": [{"type": "local", "window_size": 7},
                      {"type": "oracle_top_k", "heavy_size": 0.1}]})",
      R"({"selection": "kv_group",
          "maskers": [{"type": "quest_top_k", "heavy_size": 40, "page_size": 8}]})",
      R"({"maskers": [{"type": "sink", "sink_size": 5},
                      {"type": "adaptive_sampling", "base_rate_sampling": 0.1, "epsilon": 0.3,
                       "delta": 0.2, "init_offset": 5, "local_offset": 3}]})",
      R"({"selection": "kv_group", "maskers": [{"type": "magic_pig", "lsh_l": 5, "lsh_k": 4}]})",
      R"({"maskers": [{"type": "snap_kv", "heavy_size": 30, "window_size": 2}]})",
      R"({"layers": [{"layers": "0-", "heads": "0-3", "maskers": [{"type": "sink", "sink_size": 9}]},
                     {"layers": "0-", "heads": "4-",
                      "maskers": [{"type": "oracle_top_k", "heavy_size": 30}]}]})",
      R"({"maskers": []})",
  };
  RandomTensors random(11);
  AttentionInputs in;
  in.q = random.Normal({2, 8, 3, 32}).round();
  in.k = random.Normal({2, 2, 300, 32}).round();
  in.v = random.Normal({2, 2, 300, 32});
  in.scale = 0.5;  // with whole numbers: logits are exact in both engines
  in.causal = true;
  for (const char* pipeline : pipelines) {
    SCOPED_TRACE(pipeline);
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(Parsed(pipeline)));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(Parsed(pipeline)));
    AttentionSession research_session, session;
    MemorySink expected, sink;
    SA_ASSERT_OK(research->Run(in, &research_session, &expected));
    SA_ASSERT_OK(efficient->Run(in, &session, &sink));
    for (const Metric* metric : AllMetrics()) {
      SCOPED_TRACE(std::string(metric->name));
      const std::vector<double> wanted = expected.Values(*metric), got = sink.Values(*metric);
      ASSERT_EQ(got.size(), wanted.size());
      for (size_t i = 0; i < got.size(); ++i) {
        // The research engine looks at all logits for one that could break the promise.
        if (metric == &kGuaranteeMetFraction) {
          EXPECT_GE(got[i], wanted[i]);
        } else if (metric == &kGuaranteeUnknownFraction) {
          EXPECT_LE(got[i], wanted[i]);
        } else {
          EXPECT_NEAR(got[i], wanted[i], 1e-5);
        }
      }
    }
  }
}

// Heads of one group that follow different rules read their keys rule by rule.
TEST(EfficientAttention, TheRowsOfAGroupAreAtLeastThoseOfItsBusiestHead) {
  RandomTensors random(12);
  AttentionInputs in;
  in.q = random.Normal({1, 2, 1, 32});
  in.k = random.Normal({1, 1, 200, 32});
  in.v = random.Normal({1, 1, 200, 32});
  for (const char* heads : {"0", "1"}) {
    const Json pipeline = {{"layers",
                            {{{"layers", "0-"},
                              {"heads", heads},
                              {"maskers", {{{"type", "sink"}, {"sink_size", 20}}}}},
                             {{"layers", "0-"}, {"dense", true}}}}};
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(pipeline));
    AttentionSession session;
    MemorySink sink;
    SA_ASSERT_OK(efficient->Run(in, &session, &sink));
    EXPECT_THAT(sink.Values(kKvRowsFraction), ::testing::ElementsAre(1));
    EXPECT_THAT(sink.Values(kResearchAttentionDensity), ::testing::ElementsAre(0.55));
  }
}

TEST(EfficientAttention, RefusalsNameWhatIsMissing) {
  const auto error = [](const std::string& pipeline) {
    return EfficientFromJson(Parsed(pipeline)).status();
  };
  static const MaskerDescriptor* const elsewhere = [] {
    auto* descriptor = new MaskerDescriptor(SinkDescriptor());
    descriptor->name = "elsewhere";
    return descriptor;
  }();
  SA_ASSERT_OK(RegisterMasker(*elsewhere));
  EXPECT_THAT(
      error(R"({"maskers": [{"type": "sink", "sink_size": 4}, {"type": "elsewhere"}]})"),
      StatusIs(absl::StatusCode::kUnimplemented,
               HasSubstr("pipeline.maskers[1]: the efficient engine does not support elsewhere: "
                         "it has kernels for adaptive_sampling, causal, ")));
  EXPECT_THAT(error(R"({"maskers": [{"type": "random_sampling", "sampling_rate": 0.1,
                                     "estimator": "hub"}]})"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("random_sampling.estimator \"hub\": it draws")));
  EXPECT_THAT(error(R"({"maskers": [{"type": "random_sampling", "sampling_rate": 0.1},
                                    {"type": "sink", "sink_size": 4}]})"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("pipeline.maskers[1]: in the efficient engine nothing may follow "
                                 "a sampling masker, got sink behind random_sampling")));
  EXPECT_THAT(error(R"({"maskers": [{"type": "sink", "sink_size": -1}]})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sink_size")));
}

// What the engine says of its maskers is what their descriptors say.
TEST(EfficientAttention, KnowsSamplersAndOracles) {
  int samplers = 0, oracles = 0;
  for (const MaskerDescriptor* masker : AllMaskers()) {
    const bool known = HasCpuTwin(masker->name);
    EXPECT_EQ(IsCpuSampler(masker->name), known && masker->kind == MaskerKind::kSampling)
        << masker->name;
    EXPECT_EQ(IsCpuOracle(masker->name), known && masker->scoring_reads == ScoringReads::kAllKeys)
        << masker->name;
    samplers += IsCpuSampler(masker->name);
    oracles += IsCpuOracle(masker->name);
  }
  EXPECT_GE(samplers, 3);
  EXPECT_GE(oracles, 2);
}

TEST(EfficientAttention, UnknownMaskersAreAnsweredAsByTheRegistry) {
  EXPECT_THAT(EfficientFromJson(Parsed(R"({"maskers": [{"type": "sinks"}]})")),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("pipeline.maskers[0]: there is no masker \"sinks\"")));
}

}  // namespace
}  // namespace sparse_attention
