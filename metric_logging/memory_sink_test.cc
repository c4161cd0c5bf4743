#include "metric_logging/memory_sink.h"

#include <cmath>
#include <limits>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(MemorySink, SummariesOfOneMetric) {
  MemorySink sink;
  for (const double value : {4.0, 1.0, 2.0}) {
    sink.Record({.metric = &kResearchAttentionDensity, .value = value, .layer = value > 1});
  }
  sink.Record({.metric = &kEmptyRows, .value = 100});
  EXPECT_THAT(sink.Values(kResearchAttentionDensity), ElementsAre(4, 1, 2));
  EXPECT_THAT(sink.Mean(kResearchAttentionDensity), IsOkAndHolds(7.0 / 3));
  EXPECT_THAT(sink.Percentile(kResearchAttentionDensity, 0), IsOkAndHolds(1));
  EXPECT_THAT(sink.Percentile(kResearchAttentionDensity, 50), IsOkAndHolds(2));
  EXPECT_THAT(sink.Percentile(kResearchAttentionDensity, 75), IsOkAndHolds(3));
  EXPECT_THAT(sink.Percentile(kResearchAttentionDensity, 100), IsOkAndHolds(4));
  EXPECT_THAT(sink.MeanPerLayer(kResearchAttentionDensity),
              IsOkAndHolds(ElementsAre(Pair(0, 1), Pair(1, 3))));
  EXPECT_THAT(sink.MeanPerLayer(kEmptyRows), IsOkAndHolds(ElementsAre(Pair(-1, 100))));
}

TEST(MemorySink, NothingRecordedIsNotZero) {
  MemorySink sink;
  sink.Record({.metric = &kEmptyRows});
  EXPECT_THAT(sink.Mean(kEmptyRows), IsOkAndHolds(0));
  sink.Clear();
  for (const absl::Status& status :
       {sink.Mean(kEmptyRows).status(), sink.Percentile(kEmptyRows, 50).status(),
        sink.MeanPerLayer(kEmptyRows).status()}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"empty_rows\"")));
  }
}

TEST(MemorySink, NanAndInfinityShow) {
  MemorySink sink;
  sink.Record({.metric = &kSampleBudget, .value = 1});
  sink.Record({.metric = &kSampleBudget, .value = kInfinity});
  EXPECT_THAT(sink.Percentile(kSampleBudget, 0), IsOkAndHolds(1));
  EXPECT_THAT(sink.Percentile(kSampleBudget, 50), IsOkAndHolds(kInfinity));
  EXPECT_THAT(sink.Percentile(kSampleBudget, 100), IsOkAndHolds(kInfinity));
  sink.Record({.metric = &kSampleBudget, .value = std::nan("")});
  EXPECT_THAT(sink.Mean(kSampleBudget), IsOkAndHolds(::testing::IsNan()));
  EXPECT_THAT(sink.Percentile(kSampleBudget, 0), IsOkAndHolds(::testing::IsNan()));
}

TEST(MemorySink, PercentOutsideItsRangeIsRefused) {
  MemorySink sink;
  sink.Record({.metric = &kEmptyRows});
  for (const double percent : {-1.0, 100.5, std::nan("")}) {
    EXPECT_THAT(sink.Percentile(kEmptyRows, percent),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[0, 100]")));
  }
}

TEST(MemorySink, ThreadsLoseNothingAndGroupsStayTogether) {
  MemorySink sink;
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&sink, thread] {
      for (int step = 0; step < 200; ++step) {
        sink.RecordGroup({{.metric = &kEmptyRows, .value = 0, .layer = thread},
                          {.metric = &kEmptyRows, .value = 1, .layer = thread}});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<MetricRecord> records = sink.records();
  ASSERT_EQ(records.size(), 1600);
  for (size_t i = 0; i < records.size(); i += 2) {
    EXPECT_EQ(records[i].value, 0);
    EXPECT_EQ(records[i + 1].value, 1);
    EXPECT_EQ(records[i].layer, records[i + 1].layer);
  }
}

TEST(MetricSink, NullWantsNothing) {
  MemorySink sink;
  EXPECT_FALSE(WantsMetric(nullptr, kEmptyRows));
  EXPECT_TRUE(WantsMetric(&sink, kEmptyRows));
  sink.RecordGroup({});
  EXPECT_TRUE(sink.records().empty());
  SA_EXPECT_OK(sink.Flush());
}

TEST(MetricSinkDeathTest, RecordWithoutMetricOrWithListAsMetadata) {
  MemorySink sink;
  EXPECT_DEATH(sink.Record({}), "metric != nullptr");
  EXPECT_DEATH(sink.Record({.metric = &kEmptyRows, .metadata = Json::array()}), "is_object");
}

}  // namespace
}  // namespace sparse_attention
