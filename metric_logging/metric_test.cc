#include "metric_logging/metric.h"

#include <atomic>
#include <set>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST(Metric, BuiltInsAreListedOnceWithDocumentation) {
  std::set<absl::string_view> names;
  for (const Metric* metric : AllMetrics()) {
    EXPECT_TRUE(names.insert(metric->name).second) << metric->name;
    EXPECT_FALSE(metric->unit.empty()) << metric->name;
    EXPECT_EQ(metric->summary.back(), '.') << metric->name;
    EXPECT_EQ(FindMetric(metric->name), metric);
  }
  for (const char* name :
       {"research_attention_density", "research_attention_output_error", "kv_rows_fraction",
        "index_bytes_fraction", "sample_budget", "guarantee_met_fraction",
        "guarantee_unknown_fraction", "empty_rows", "nan_rows"}) {
    EXPECT_THAT(names, Contains(name));
  }
}

TEST(Metric, RegisteringAddsAtTheEnd) {
  static constexpr Metric kPagesRead{"pages_read", MetricType::kInteger, "pages", "Pages read."};
  EXPECT_EQ(FindMetric("pages_read"), nullptr);
  SA_ASSERT_OK(RegisterMetric(kPagesRead));
  EXPECT_EQ(FindMetric("pages_read"), &kPagesRead);
  EXPECT_EQ(AllMetrics().back(), &kPagesRead);
  EXPECT_THAT(RegisterMetric(kPagesRead),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"pages_read\"")));
}

TEST(Metric, BadNamesAreRefused) {
  static constexpr Metric kTaken{"empty_rows", MetricType::kFloat, "rows", "Another."};
  EXPECT_THAT(RegisterMetric(kTaken), StatusIs(absl::StatusCode::kFailedPrecondition));
  static constexpr Metric kBad[] = {{"", {}, "", ""}, {"Rows", {}, "", ""}, {"a\n", {}, "", ""}};
  for (const Metric& bad : kBad) {
    EXPECT_THAT(RegisterMetric(bad),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lower_snake_case")));
  }
}

TEST(Metric, OneOfManyThreadsRegisters) {
  static constexpr Metric kRaced{"raced", MetricType::kFloat, "", "Raced."};
  std::atomic<int> registered = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      registered += RegisterMetric(kRaced).ok();
      EXPECT_EQ(FindMetric("raced"), &kRaced);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(registered, 1);
}

}  // namespace
}  // namespace sparse_attention
