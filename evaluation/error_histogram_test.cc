#include "evaluation/error_histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

TEST(ErrorHistogram, PercentilesAreCloseAndTheMeanIsExact) {
  PhiloxStream random(1, RandomPurpose::kTest, 0, 0, 0);
  std::vector<double> errors(9999);
  ErrorHistogram all, first, second;
  double sum = 0;
  for (size_t i = 0; i < errors.size(); ++i) {
    errors[i] = std::exp(-8 * random.Uniform());
    sum += errors[i];
    all.Add(errors[i]);
    (i % 3 == 0 ? first : second).Add(errors[i]);
  }
  std::sort(errors.begin(), errors.end());
  first.Merge(second);
  SA_ASSERT_OK_AND_ASSIGN(const ErrorHistogram read, ErrorHistogram::FromJson(first.ToJson()));
  for (const ErrorHistogram& h : {all, first, read}) {
    EXPECT_EQ(h.count(), 9999);
    EXPECT_NEAR(h.Mean(), sum / 9999, 1e-12);
    for (double percent : {1.0, 50.0, 95.0, 100.0}) {
      const double exact = errors[static_cast<size_t>(std::ceil(percent / 100 * 9999)) - 1];
      EXPECT_NEAR(h.Percentile(percent) / exact, 1, 0.0051) << percent;
    }
  }
}

TEST(ErrorHistogram, ZeroAndBrokenErrorsKeepTheirMeaning) {
  ErrorHistogram histogram;
  EXPECT_EQ(histogram.Percentile(95), 0);
  histogram.Add(0, 99);
  EXPECT_EQ(histogram.Percentile(95), 0);
  EXPECT_EQ(histogram.Mean(), 0);
  histogram.Add(std::nan(""));
  EXPECT_EQ(histogram.Percentile(99), 0);
  EXPECT_TRUE(std::isinf(histogram.Percentile(100)));
  EXPECT_TRUE(std::isinf(histogram.Mean()));
  SA_ASSERT_OK_AND_ASSIGN(const ErrorHistogram read, ErrorHistogram::FromJson(histogram.ToJson()));
  EXPECT_TRUE(std::isinf(read.Mean()));
}

TEST(ErrorHistogram, RefusesWhatIsNoHistogram) {
  for (const char* text : {"3", "{}", R"({"sum": 1.0, "bins": {"x": 1}})",
                           R"({"sum": 1.0, "bins": {"1": -1}})", R"({"sum": "a", "bins": {}})"}) {
    EXPECT_THAT(ErrorHistogram::FromJson(*ParseJson(text)),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << text;
  }
}

}  // namespace
}  // namespace sparse_attention
