#include "metric_logging/reader.h"

#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string WriteFile(const std::string& contents) {
  const std::string path = absl::StrCat(::testing::TempDir(), "reader_test.jsonl");
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

std::string Lines(std::initializer_list<int> sequence_numbers) {
  std::string lines;
  for (const int seq : sequence_numbers) {
    AppendJsonlLine({.metric = &kEmptyRows, .value = 10.0 + seq, .location = "x"}, absl::Now(), seq,
                    lines);
  }
  return lines;
}

TEST(Reader, ReadsInOrder) {
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records,
                          ReadMetricLog(WriteFile(Lines({0, 1, 2}))));
  ASSERT_EQ(records.size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(records[i].value, 10 + i);
}

TEST(Reader, EmptyIsNotMissing) {
  EXPECT_THAT(ReadMetricLog(WriteFile("")), IsOkAndHolds(::testing::IsEmpty()));
  EXPECT_THAT(ReadMetricLog("/nowhere/metrics.jsonl"),
              StatusIs(absl::StatusCode::kNotFound,
                       "/nowhere/metrics.jsonl: open: No such file or directory"));
  EXPECT_THAT(ReadMetricLog(::testing::TempDir()).status().message(), HasSubstr("directory"));
}

TEST(Reader, TornAtEveryByteOfTheLastRecord) {
  const std::string whole = Lines({0, 1});
  const std::string all = Lines({0, 1, 2});
  for (size_t size = whole.size() + 1; size < all.size(); ++size) {
    const std::string path = WriteFile(all.substr(0, size));
    std::vector<double> values;
    MetricLogEnd end;
    EXPECT_THAT(VisitMetricLog(
                    path, [&](LoggedMetric logged) { values.push_back(logged.value); }, &end),
                StatusIs(absl::StatusCode::kDataLoss, StartsWith(path + ": line 3: torn")));
    EXPECT_THAT(values, ::testing::ElementsAre(10, 11));
    EXPECT_EQ(end.records, 2);
    EXPECT_EQ(end.bytes, whole.size());
    EXPECT_EQ(end.torn_bytes, size - whole.size());
    EXPECT_THAT(ReadMetricLog(path), StatusIs(absl::StatusCode::kDataLoss));
  }
}

TEST(Reader, EveryChangedByteInTheMiddleIsFound) {
  const std::string all = Lines({0, 1, 2});
  const size_t begin = all.find('\n') + 1;
  for (size_t i = begin; i < all.find('\n', begin) + 1; ++i) {
    for (const char change : {'\x01', '\x20', '\x80'}) {
      std::string damaged = all;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      MetricLogEnd end;
      EXPECT_THAT(VisitMetricLog(
                      WriteFile(damaged), [](LoggedMetric) {}, &end),
                  StatusIs(absl::StatusCode::kDataLoss, HasSubstr(": line 2: ")))
          << i;
      EXPECT_EQ(end.records, 1);
      EXPECT_EQ(end.torn_bytes, 0);
    }
  }
}

TEST(Reader, MissingAndRepeatedLinesAreFound) {
  EXPECT_THAT(ReadMetricLog(WriteFile(Lines({0, 2}))),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("line 2: seq must be 1, got 2")));
  EXPECT_THAT(ReadMetricLog(WriteFile(Lines({0, 1, 1}))),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("line 3: seq must be 2, got 1")));
  EXPECT_THAT(ReadMetricLog(WriteFile(Lines({1}))),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("line 1: seq must be 0, got 1")));
}

TEST(Reader, LinesLongerThanOneReadAndEndlessOnes) {
  const std::string text(200000, 'x');
  std::string lines;
  for (int64_t seq = 0; seq < 3; ++seq) {
    AppendJsonlLine({.metric = &kEmptyRows, .location = text}, absl::Now(), seq, lines);
  }
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records, ReadMetricLog(WriteFile(lines)));
  ASSERT_EQ(records.size(), 3);
  EXPECT_EQ(records[2].location, text);
  EXPECT_THAT(
      ReadMetricLog("/dev/zero"),
      StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("line 1"), HasSubstr("bytes long"))));
}

}  // namespace
}  // namespace sparse_attention
