#include "metric_logging/jsonl_line.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/crc32c.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string Line(const MetricRecord& record, int64_t seq = 0) {
  std::string line;
  AppendJsonlLine(record, absl::FromUnixMicros(1740821400000125), seq, line);
  EXPECT_EQ(line.back(), '\n');
  line.pop_back();
  return line;
}

// `body` is a line without its checksum.
std::string WithCrc(std::string body) {
  const std::string crc = absl::StrFormat("%08x", Crc32c(body));
  body.pop_back();
  return absl::StrCat(body, ",\"crc\":\"", crc, "\"}");
}

TEST(JsonlLine, HasTheDocumentedKeysInOrder) {
  const std::string line = Line({.metric = &kResearchAttentionDensity,
                                 .value = 0.25,
                                 .layer = 3,
                                 .head = 0,
                                 .query_position = 4095,
                                 .masker = "sink",
                                 .location = "ResearchAttention.Run",
                                 .metadata = {{"task", "niah"}}},
                                17);
  EXPECT_THAT(
      line,
      MatchesRegex(R"re(\{"timestamp":"2025-0[23]-[0-9]{2}T[0-9]{2}:[0-9]{2}:00\.000125",)re"
                   R"re("metric":"research_attention_density","value":0\.25,)re"
                   R"re("metadata":\{"layer_idx":3,"head":0,"query_position":4095,)re"
                   R"re("masker":"sink","task":"niah"\},)re"
                   R"re("location":"ResearchAttention.Run","seq":17,"crc":"[0-9a-f]{8}"\})re"));
  EXPECT_EQ(WithCrc(absl::StrCat(line.substr(0, line.find(",\"crc\"")), "}")), line);
}

TEST(JsonlLine, RoundTrip) {
  const Json metadata = {{"task", "a \"b\"\n\xC3\xA9"}, {"nested", {{"k", {1, 2.5, nullptr}}}}};
  SA_ASSERT_OK_AND_ASSIGN(const LoggedMetric logged,
                          ParseJsonlLine(Line({.metric = &kSampleBudget,
                                               .value = 1.0 / 3,
                                               .layer = 31,
                                               .head = 7,
                                               .query_position = 131071,
                                               .masker = "adaptive_sampling",
                                               .location = "here",
                                               .metadata = metadata},
                                              5)));
  EXPECT_EQ(logged.metric, "sample_budget");
  EXPECT_EQ(logged.value, 1.0 / 3);
  EXPECT_EQ(logged.layer, 31);
  EXPECT_EQ(logged.head, 7);
  EXPECT_EQ(logged.query_position, 131071);
  EXPECT_EQ(logged.masker, "adaptive_sampling");
  EXPECT_EQ(logged.location, "here");
  EXPECT_EQ(logged.metadata, metadata);
  EXPECT_EQ(logged.seq, 5);
}

TEST(JsonlLine, ValuesOfEveryKind) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double value : {0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308, 1e22, -2.5,
                             kInfinity, -kInfinity, std::nan("")}) {
    for (const Metric* metric : {&kSampleBudget, &kEmptyRows}) {
      const std::string line = Line({.metric = metric, .value = value});
      EXPECT_THAT(ParseJsonlLine(line), IsOk()) << line;
      EXPECT_THAT(ParseJsonlLine(line)->value, ::testing::NanSensitiveDoubleEq(value)) << line;
    }
  }
  EXPECT_THAT(Line({.metric = &kEmptyRows, .value = 3}), HasSubstr("\"value\":3,"));
  EXPECT_THAT(Line({.metric = &kSampleBudget, .value = 3}), HasSubstr("\"value\":3.0,"));
  EXPECT_THAT(Line({.metric = &kEmptyRows, .value = std::nan("")}), HasSubstr("\"value\":\"NaN\""));
  EXPECT_THAT(Line({.metric = &kEmptyRows, .value = -kInfinity}),
              HasSubstr("\"value\":\"-Infinity\""));
}

TEST(JsonlLine, MembersOfTheCallerDoNotClash) {
  // The record's own layer wins; a caller's member that is no index stays what it is.
  SA_ASSERT_OK_AND_ASSIGN(
      const LoggedMetric logged,
      ParseJsonlLine(Line(
          {.metric = &kEmptyRows, .layer = 2, .metadata = {{"layer_idx", 9}, {"head", "all"}}})));
  EXPECT_EQ(logged.layer, 2);
  EXPECT_EQ(logged.head, -1);
  EXPECT_EQ(logged.metadata, Json({{"head", "all"}}));
  // The hub's way to name the layer.
  EXPECT_EQ(ParseJsonlLine(Line({.metric = &kEmptyRows, .metadata = {{"layer_idx", 9}}}))->layer,
            9);
}

TEST(JsonlLine, TextThatIsNotUtf8IsReplaced) {
  SA_ASSERT_OK_AND_ASSIGN(const LoggedMetric logged,
                          ParseJsonlLine(Line({.metric = &kEmptyRows, .location = "a\xFFz"})));
  EXPECT_EQ(logged.location, "a\xEF\xBF\xBDz");
}

TEST(JsonlLine, BadLinesNameTheMember) {
  using Code = absl::StatusCode;
  EXPECT_THAT(ParseJsonlLine(""), StatusIs(Code::kDataLoss, HasSubstr("checksum")));
  EXPECT_THAT(ParseJsonlLine("{\"seq\":0}"), StatusIs(Code::kDataLoss, HasSubstr("checksum")));
  EXPECT_THAT(ParseJsonlLine("{\"seq\":0,\"crc\":\"00000000\"}"),
              StatusIs(Code::kDataLoss, HasSubstr("got \"00000000\"")));
  EXPECT_THAT(ParseJsonlLine(WithCrc("[1}")), StatusIs(Code::kInvalidArgument));
  const Json good = {{"timestamp", ""}, {"metric", "m"}, {"value", 1}, {"metadata", Json::object()},
                     {"location", ""},  {"seq", 0}};
  SA_EXPECT_OK(ParseJsonlLine(WithCrc(DumpJson(good))));
  for (const auto& [key, unused] : good.items()) {
    Json bad = good;
    bad[key] = Json::array();
    EXPECT_THAT(ParseJsonlLine(WithCrc(DumpJson(bad))),
                StatusIs(Code::kInvalidArgument,
                         ::testing::AllOf(HasSubstr(absl::StrCat("\"", key, "\" must be")),
                                          HasSubstr("got []"))));
    bad.erase(key);
    EXPECT_THAT(ParseJsonlLine(WithCrc(DumpJson(bad))),
                StatusIs(Code::kInvalidArgument, HasSubstr(absl::StrCat("\"", key, "\" must be"))));
  }
}

}  // namespace
}  // namespace sparse_attention
