#include "sparse_attention/research_attention/research_attention.h"

#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<std::unique_ptr<const ResearchAttention>> Create(absl::string_view json) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, PipelineFromJson(ParsedJson(json)));
  return ResearchAttention::Create(config);
}

std::unique_ptr<const ResearchAttention> MustCreate(absl::string_view json) {
  auto attention = Create(json);
  SA_CHECK_OK(attention);
  return *std::move(attention);
}

AttentionResult RunStep(const ResearchAttention& attention, const AttentionInputs& in,
                        MetricSink* sink = nullptr) {
  AttentionSession session;
  absl::StatusOr<AttentionResult> result = attention.Run(in, &session, sink);
  SA_CHECK_OK(result);
  return *std::move(result);
}

// One row of text a query head, of the first query.
std::vector<std::string> HeadRows(const Mask& mask) {
  std::vector<std::string> rows;
  for (int64_t h = 0; h < mask.shape().heads; ++h) rows.push_back(MaskRow(mask, 0, h, 0));
  return rows;
}

AttentionInputs TenKeys() {
  return RandomInputs({.heads = 4, .kv_heads = 2, .queries = 1, .keys = 10});
}

TEST(ResearchAttention, WithoutMaskersItIsDense) {
  const AttentionInputs in = RandomInputs({});
  for (const char* json :
       {R"({"type": "research", "maskers": []})",
        R"({"type": "research", "layers": [{"layers": "0-3", "dense": true}]})",
        R"({"type": "research", "layers": [{"layers": "5-", "maskers": [{"type": "causal"}]}]})"}) {
    const auto attention = MustCreate(json);
    const AttentionResult result = RunStep(*attention, in);
    EXPECT_TRUE(result.mask.is_full());
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
    EXPECT_THAT(result.state.out, TensorEquals(dense.out));
    EXPECT_THAT(result.state.lse, TensorEquals(dense.lse));
    EXPECT_TRUE(attention->IsDense(0, 4));
  }
}

TEST(ResearchAttention, FoldsMaskersInTheirOrder) {
  AttentionInputs in = InputsWithLogits({{9, 1, 8, 2, 7, 3, 6, 4, 5, 0}});
  const auto row = [&](const char* maskers) {
    const auto attention =
        MustCreate(std::string(R"({"type": "research", "maskers": [)") + maskers + "]}");
    return MaskRow(RunStep(*attention, in).mask, 0, 0, 0);
  };
  const char* sink_first =
      R"({"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 1},
         {"type": "oracle_top_k", "heavy_size": 2})";
  const char* sink_last =
      R"({"type": "oracle_top_k", "heavy_size": 2}, {"type": "local", "window_size": 1},
         {"type": "sink", "sink_size": 2})";
  EXPECT_EQ(row(sink_first), "111.1....1");
  EXPECT_EQ(row(sink_last), "111......1");
}

TEST(ResearchAttention, AttendsThroughTheMaskThatItReturns) {
  AttentionInputs in = RandomInputs({.batch = 2, .queries = 3, .keys = 50});
  in.causal = true;
  in.softcap = 5;
  const auto attention = MustCreate(
      R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 2},
          {"type": "local", "window_size": 3}, {"type": "random_sampling", "sampling_rate": 0.3}]})");
  const AttentionResult result = RunStep(*attention, in);
  EXPECT_LT(result.mask.Density(), 0.5);
  SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, result.mask));
  EXPECT_THAT(result.state.out,
              TensorNear(reference.out, {.relative_eps = 50, .absolute_eps = 50}));
  EXPECT_THAT(result.state.lse,
              TensorNear(reference.lse, {.relative_eps = 50, .absolute_eps = 50}));
  AttentionSession session;
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, attention->BuildMask(in, &session));
  EXPECT_THAT(mask.ToDense(), TensorEquals(result.mask.ToDense()));
  EXPECT_EQ(in.memo, nullptr);
}

TEST(ResearchAttention, TheFirstRuleThatMatchesLayerAndHeadDecides) {
  const auto attention = MustCreate(R"({"type": "research", "layers": [
      {"layers": "0-1", "dense": true},
      {"layers": "2", "heads": "0,3", "maskers": [{"type": "sink", "sink_size": 1}]},
      {"layers": "2-3", "heads": "0-1", "maskers": [{"type": "sink", "sink_size": 2}]}]})");
  AttentionInputs in = TenKeys();
  const std::string full(10, '1'), one = "1.........", two = "11........";
  in.layer = 1;
  EXPECT_THAT(HeadRows(RunStep(*attention, in).mask), ElementsAre(full, full, full, full));
  in.layer = 2;
  EXPECT_THAT(HeadRows(RunStep(*attention, in).mask), ElementsAre(one, two, full, one));
  in.layer = 3;
  EXPECT_THAT(HeadRows(RunStep(*attention, in).mask), ElementsAre(two, two, full, full));
  in.layer = 4;
  EXPECT_TRUE(RunStep(*attention, in).mask.is_full());
  for (int64_t layer : {0, 1, 4}) EXPECT_TRUE(attention->IsDense(layer, 4)) << layer;
  for (int64_t layer : {2, 3}) EXPECT_FALSE(attention->IsDense(layer, 4)) << layer;
}

TEST(ResearchAttention, KnowsWhetherItReadsAllKeys) {
  EXPECT_FALSE(MustCreate(R"({"type": "research", "maskers": []})")->IsOracle());
  EXPECT_FALSE(MustCreate(R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 1}]})")
                   ->IsOracle());
  EXPECT_TRUE(MustCreate(R"({"type": "research", "layers": [{"layers": "7", "maskers": [
                             {"type": "oracle_top_p", "top_p": 0.5}]}]})")
                  ->IsOracle());
}

TEST(ResearchAttention, SelectionOfThePipelineReachesItsMaskers) {
  const AttentionInputs in = RandomInputs({.heads = 8, .kv_heads = 2, .queries = 1, .keys = 40});
  const auto rows = [&](const char* selection) {
    return HeadRows(
        RunStep(*MustCreate(std::string(R"({"type": "research", )") + selection +
                            R"("maskers": [{"type": "oracle_top_k", "heavy_size": 5}]})"),
                in)
            .mask);
  };
  const auto own = rows("");
  EXPECT_NE(own[0], own[1]);
  EXPECT_EQ(rows(R"("selection": "query_head", )"), own);
  const auto max = rows(R"("selection": "kv_group", )");
  const auto mean = rows(R"("selection": "kv_group", "group_reduce": "mean", )");
  for (const std::vector<std::string>& group : {max, mean}) {
    for (int head : {1, 2, 3}) EXPECT_EQ(group[head], group[0]);
    for (int head : {5, 6, 7}) EXPECT_EQ(group[head], group[4]);
    EXPECT_NE(group[0], group[4]);
  }
  EXPECT_NE(max, mean);
}

TEST(ResearchAttention, TheSeedOfThePipelineReachesItsSampler) {
  const AttentionInputs in = RandomInputs({.queries = 1, .keys = 40});
  const auto rows = [&](const char* seed) {
    return HeadRows(
        RunStep(*MustCreate(std::string(R"({"type": "research", )") + seed +
                            R"("maskers": [{"type": "random_sampling", "sampling_rate": 0.3}]})"),
                in)
            .mask);
  };
  EXPECT_EQ(rows(R"("seed": 42, )"), rows(""));
  EXPECT_NE(rows(R"("seed": 43, )"), rows(""));
}

TEST(ResearchAttention, ReadsDumpedConfigsOfThePythonHub) {
  const auto attention = MustCreate(R"({"type": "ResearchAttentionConfig", "masker_configs": [
      {"type": "SinkMaskerConfig", "params": {"sink_size": 2, "search_space": {}}},
      {"type": "LocalMaskerConfig", "params": {"window_size": 0.1}}]})");
  EXPECT_EQ(HeadRows(RunStep(*attention, TenKeys()).mask)[0], "11.......1");
}

TEST(ResearchAttention, AnErrorBeginsWithThePathOfTheMasker) {
  EXPECT_THAT(
      Create(R"({"type": "research", "maskers": [{"type": "causal"},
                         {"type": "oracle_top_k", "heavy_size": 0}]})"),
      StatusIs(kInvalid, "pipeline.maskers[1]: oracle_top_k.heavy_size must be > 0, got 0"));
  EXPECT_THAT(Create(R"({"type": "research", "maskers": [{"type": "sink", "size": 4}]})"),
              StatusIs(kInvalid, HasSubstr("pipeline.maskers[0]: sink has no field \"size\"")));
  EXPECT_THAT(Create(R"({"type": "research", "layers": [{"layers": "0", "dense": true},
                         {"maskers": [{"type": "sinc"}]}]})"),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("pipeline.layers[1].maskers[0]: there is no masker \"sinc\"")));
}

TEST(ResearchAttention, RefusesASecondSamplingMasker) {
  EXPECT_THAT(Create(R"({"type": "research", "maskers": [
                         {"type": "random_sampling", "sampling_rate": 0.1},
                         {"type": "sink", "sink_size": 4},
                         {"type": "random_sampling", "sampling_rate": 0.2}]})"),
              StatusIs(kInvalid,
                       "pipeline.maskers[2]: only one sampling masker is supported in a pipeline, "
                       "got random_sampling and random_sampling"));
  // One for each rule is no second one, and maskers of other kinds may repeat.
  SA_EXPECT_OK(Create(R"({"type": "research", "layers": [
      {"layers": "0", "maskers": [{"type": "random_sampling", "sampling_rate": 0.1}]},
      {"layers": "1-", "maskers": [{"type": "random_sampling", "sampling_rate": 0.1},
                                   {"type": "sink", "sink_size": 4}, {"type": "sink", "sink_size": 4}]}]})"));
}

TEST(ResearchAttention, RefusesWrongInputs) {
  const auto attention =
      MustCreate(R"({"type": "research", "maskers": [{"type": "sink", "sink_size": 1}]})");
  AttentionSession session;
  AttentionInputs in = TenKeys();
  in.v = in.v.narrow(2, 0, 9);
  EXPECT_THAT(attention->Run(in, &session), StatusIs(kInvalid, HasSubstr("v must have shape")));
  EXPECT_THAT(attention->BuildMask(AttentionInputs(), &session), StatusIs(kInvalid));
}

// ---- Metrics ----

constexpr char kVattention[] = R"({"type": "research", "maskers": [
    {"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 3},
    {"type": "oracle_top_k", "heavy_size": 4},
    {"type": "adaptive_sampling", "base_rate_sampling": 0.1, "epsilon": 0.2, "delta": 0.2,
     "init_offset": 2, "local_offset": 3}]})";

std::vector<MetricRecord> RecordsOf(const MemorySink& sink, const Metric& metric) {
  std::vector<MetricRecord> records;
  for (const MetricRecord& record : sink.records()) {
    if (record.metric == &metric) records.push_back(record);
  }
  return records;
}

TEST(ResearchAttentionMetrics, AreWhatAPlainCountGives) {
  AttentionInputs in = RandomInputs({.batch = 2, .queries = 3, .keys = 60}, 2);
  in.causal = true;
  in.layer = 5;
  MemorySink sink;
  const AttentionResult result = RunStep(*MustCreate(kVattention), in, &sink);

  const at::Tensor active = result.mask.ToActive();
  int64_t kept = 0, seen = 0, rows_read = 0, rows_seen = 0;
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j <= 57 + i; ++j) {  // position of query i
        for (int64_t group = 0; group < 2; ++group) {
          bool read = false;
          for (int64_t h = 2 * group; h < 2 * group + 2; ++h) {
            const bool is_active = active[b][h][i][j].item<bool>();
            kept += is_active;
            ++seen;
            read = read || is_active;
          }
          rows_read += read;
          ++rows_seen;
        }
      }
    }
  }
  const auto value = [&](const Metric& metric) {
    const std::vector<MetricRecord> records = RecordsOf(sink, metric);
    EXPECT_EQ(records.size(), 1u) << metric.name;
    EXPECT_EQ(records.at(0).layer, 5);
    EXPECT_EQ(records.at(0).head, -1);
    return records.at(0).value;
  };
  EXPECT_DOUBLE_EQ(value(kResearchAttentionDensity), static_cast<double>(kept) / seen);
  EXPECT_DOUBLE_EQ(value(kKvRowsFraction), static_cast<double>(rows_read) / rows_seen);
  EXPECT_EQ(value(kEmptyRows), 0);
  EXPECT_EQ(value(kNanRows), 0);
  // The oracle reads K once: as many bytes as half of K and V.
  EXPECT_DOUBLE_EQ(value(kIndexBytesFraction), 0.5);
}

TEST(ResearchAttentionMetrics, TheErrorOfEveryHeadAndQueryIsAgainstDenseAttention) {
  AttentionInputs in = RandomInputs({.queries = 3, .keys = 60}, 2);
  in.sink_logits = at::zeros({4});
  MemorySink sink;
  const AttentionResult result = RunStep(*MustCreate(kVattention), in, &sink);
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
  const std::vector<MetricRecord> records = RecordsOf(sink, kResearchAttentionOutputError);
  ASSERT_EQ(records.size(), 12u);
  std::map<std::pair<int64_t, int64_t>, double> errors;
  for (const MetricRecord& record : records) {
    errors[{record.head, record.query_position}] = record.value;
  }
  for (int64_t h = 0; h < 4; ++h) {
    for (int64_t i = 0; i < 3; ++i) {
      const at::Tensor d = dense.out[0][h][i].to(at::kDouble);
      const at::Tensor o = result.state.out[0][h][i].to(at::kDouble);
      const double expected = o.sub(d).norm().item<double>() / d.norm().item<double>();
      EXPECT_GT(expected, 0);
      const std::pair<int64_t, int64_t> row = {h, 57 + i};
      ASSERT_EQ(errors.count(row), 1u);
      EXPECT_NEAR(errors[row], expected, 1e-6 * expected);
    }
  }
}

TEST(ResearchAttentionMetrics, AMaskersOwnMetricsAreOfTheHeadsThatUseIt) {
  const auto attention = MustCreate(R"({"type": "research", "layers": [
      {"heads": "0-1", "maskers": [{"type": "adaptive_sampling", "base_rate_sampling": 4,
        "epsilon": 0.3, "delta": 0.3, "init_offset": 0, "local_offset": 0}]},
      {"heads": "2", "maskers": [{"type": "oracle_top_k", "heavy_size": 2}]}]})");
  const AttentionInputs in = RandomInputs({.queries = 1, .keys = 60});
  MemorySink sink;
  const AttentionResult result = RunStep(*attention, in, &sink);
  const std::vector<MetricRecord> budgets = RecordsOf(sink, kSampleBudget);
  ASSERT_EQ(budgets.size(), 2u);
  for (const MetricRecord& budget : budgets) {
    EXPECT_EQ(budget.value, static_cast<double>(ActiveKeys(result.mask, 0, budget.head, 0).size()));
    EXPECT_EQ(budget.query_position, 59);
  }
  EXPECT_EQ(budgets[0].head, 0);
  EXPECT_EQ(budgets[1].head, 1);
  EXPECT_EQ(RecordsOf(sink, kGuaranteeMetFraction).size(), 2u);
  // Half of the heads read the base samples (4 rows for each of 4 heads, were they all), a quarter
  // all of K: of 2 * 2 * 60 rows of K and V.
  const double sampled = 4. * 4 / 240, oracle = 120. / 240;
  SA_ASSERT_OK_AND_ASSIGN(const double index_bytes, sink.Mean(kIndexBytesFraction));
  EXPECT_NEAR(index_bytes, sampled / 2 + oracle / 4, 1e-12);
}

// Takes densities alone.
class DensitySink final : public MetricSink {
 public:
  bool Wants(const Metric& metric) const override { return &metric == &kResearchAttentionDensity; }
  int records = 0;

 private:
  void DoRecord(absl::Span<const MetricRecord> group) override {
    records += static_cast<int>(group.size());
  }
};

TEST(ResearchAttentionMetrics, OnlyWantedOnesAreRecorded) {
  DensitySink sink;
  RunStep(*MustCreate(kVattention), RandomInputs({.queries = 3, .keys = 60}), &sink);
  EXPECT_EQ(sink.records, 1);
}

TEST(ResearchAttentionMetrics, DenseLayersAreMeasuredToo) {
  MemorySink sink;
  RunStep(*MustCreate(R"({"type": "research", "maskers": []})"), RandomInputs({}), &sink);
  EXPECT_THAT(sink.Values(kResearchAttentionDensity), ElementsAre(1));
  EXPECT_THAT(sink.Values(kKvRowsFraction), ElementsAre(1));
  EXPECT_THAT(sink.Values(kIndexBytesFraction), ElementsAre(0));
  EXPECT_THAT(sink.Values(kResearchAttentionOutputError), ::testing::Each(0));
}

// ---- Sessions ----

struct CountingConfig {
  static constexpr char kName[] = "counting";
  static auto Fields() { return std::tuple<>(); }
};

struct CountingState final : MaskerState {
  int64_t steps = 0;
};

// Keeps as many leading keys as there were steps.
class Counting final : public Masker {
 public:
  using Config = CountingConfig;
  Counting(const CountingConfig&, const MaskerOptions& options) : Masker(Descriptor(), options) {}
  Json ToJson() const override { return ConfigToJson(CountingConfig()); }
  std::unique_ptr<MaskerState> NewState() const override {
    return std::make_unique<CountingState>();
  }
  static const MaskerDescriptor& Descriptor() {
    static const MaskerDescriptor descriptor =
        MakeDescriptor<Counting>({.summary = "Counts steps."});
    return descriptor;
  }

 private:
  absl::StatusOr<Mask> Select(const AttentionInputs&, const Mask& previous,
                              MaskerState* state) const override {
    at::Tensor weights = previous.ToDense();
    weights.narrow(3, 0, ++static_cast<CountingState*>(state)->steps).fill_(1);
    return Mask::AdoptDense(weights);
  }
};

TEST(AttentionSession, HoldsAStateForEachLayerRuleAndMasker) {
  AttentionSession session;
  const Counting masker({}, {});
  MaskerState* state = session.StateFor(0, 0, 0, masker);
  EXPECT_EQ(session.StateFor(0, 0, 0, masker), state);
  EXPECT_NE(session.StateFor(1, 0, 0, masker), state);
  EXPECT_NE(session.StateFor(0, 1, 0, masker), state);
  EXPECT_NE(session.StateFor(0, 0, 1, masker), state);
  EXPECT_NE(dynamic_cast<CountingState*>(state), nullptr);
}

TEST(AttentionSession, RemembersOneSequenceUntilReset) {
  if (!FindMasker("counting").ok()) {
    SA_ASSERT_OK(RegisterMasker(Counting::Descriptor()));
  }
  const auto attention = MustCreate(R"({"type": "research", "maskers": [{"type": "counting"}]})");
  AttentionInputs in = TenKeys();
  const auto keys = [&](AttentionSession& session) {
    const auto mask = attention->BuildMask(in, &session);
    SA_CHECK_OK(mask);
    return ActiveKeys(*mask, 0, 0, 0).size();
  };
  AttentionSession one, other;
  EXPECT_EQ(keys(one), 1u);
  EXPECT_EQ(keys(one), 2u);
  EXPECT_EQ(keys(other), 1u);
  in.layer = 1;
  EXPECT_EQ(keys(one), 1u);
  in.layer = 0;
  EXPECT_EQ(keys(one), 3u);
  one.Reset();
  EXPECT_EQ(keys(one), 1u);
}

TEST(AttentionSession, SequencesRunInSeveralThreads) {
  const auto attention = MustCreate(kVattention);
  const AttentionInputs in = RandomInputs({.queries = 3, .keys = 60});
  const at::Tensor expected = RunStep(*attention, in).state.out;
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] { same[t] = RunStep(*attention, in).state.out.equal(expected); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(same, ::testing::Each(1));
}

}  // namespace
}  // namespace sparse_attention
