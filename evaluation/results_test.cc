#include "evaluation/results.h"

#include <cmath>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

SampleResult Sample(double score, double density, double error, double ms) {
  SampleResult sample;
  sample.score = score;
  sample.measurements.density = density;
  sample.measurements.kv_bytes_fraction = 2 * density;
  sample.measurements.output_error.Add(error);
  sample.ms_per_token = ms;
  return sample;
}

std::vector<Cell> TwoCells() {
  Cell task{"oracle_top_k_2",
            "efficient",
            "niah_single",
            4096,
            true,
            {Sample(1, 0.02, 0.1, 3), Sample(0.5, 0.04, 0.3, 0)}};
  Cell text{"oracle_top_k_2",
            "efficient",
            "perplexity",
            4096,
            true,
            {Sample(std::log(20), 0.02, 0.2, 1)}};
  return {task, text};
}

TEST(CellToJson, HasEveryFieldAndTheirMeaning) {
  const Json json = CellToJson(TwoCells()[0]);
  std::vector<std::string> names;
  for (const auto& [name, value] : json.items()) names.push_back(name);
  EXPECT_THAT(names, ::testing::ElementsAre(
                         "config", "engine", "task", "context", "samples", "accuracy",
                         "accuracy_low", "accuracy_high", "perplexity", "density",
                         "kv_bytes_fraction", "index_bytes_fraction", "oracle", "output_error_mean",
                         "output_error_p95", "guarantee_unknown", "ms_per_token"));
  EXPECT_EQ(json["samples"], 2);
  EXPECT_EQ(json["accuracy"], 0.5);  // half an answer is no answer
  EXPECT_LT(json["accuracy_low"], 0.5);
  EXPECT_GT(json["accuracy_high"], 0.5);
  EXPECT_TRUE(json["perplexity"].is_null());
  EXPECT_NEAR(json["density"].get<double>(), 0.03, 1e-12);
  EXPECT_NEAR(json["kv_bytes_fraction"].get<double>(), 0.06, 1e-12);
  EXPECT_NEAR(json["output_error_mean"].get<double>(), 0.2, 1e-12);
  EXPECT_NEAR(json["output_error_p95"].get<double>(), 0.3, 0.002);
  EXPECT_EQ(json["ms_per_token"], 3.0);  // the sample that was not timed does not count
  EXPECT_EQ(json["oracle"], true);
}

TEST(CellToJson, PerplexityHasNoAccuracy) {
  const Json json = CellToJson(TwoCells()[1]);
  EXPECT_TRUE(json["accuracy"].is_null());
  EXPECT_TRUE(json["accuracy_low"].is_null());
  EXPECT_NEAR(json["perplexity"].get<double>(), 20, 1e-9);
}

TEST(WriteResults, ReplacesTheFileAsAWhole) {
  const std::string path = ::testing::TempDir() + "/results.json";
  SA_ASSERT_OK(WriteResults(path, TwoCells()));
  SA_ASSERT_OK_AND_ASSIGN(const Json json, ReadJsonFile(path));
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[1]["task"], "perplexity");
  EXPECT_FALSE(std::ifstream(path + ".new"));
  EXPECT_THAT(WriteResults("/no/such/folder/results.json", TwoCells()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/no/such/folder")));
}

TEST(ResultsTable, IsARowAConfigAndAColumnATask) {
  EXPECT_EQ(
      ResultsTable(TwoCells()),
      "context 4096 tokens\n"
      "  config              engine   niah_single   perplexity   density   KV read   index read   "
      "oracle   error   error p95   tokens/s\n"
      "  oracle_top_k_2   efficient          0.50        20.00     2.5 %     5.0 %          0 %   "
      "   yes   0.200       0.299      500.0\n\n");
}

}  // namespace
}  // namespace sparse_attention
