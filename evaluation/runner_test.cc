#include "evaluation/runner.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr char kModel[] = "models/retrieval-6m";

class RunnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto adapter = HuggingFaceAdapter::Load(kModel);
    SA_CHECK_OK(adapter);
    adapter_ = adapter->release();
    auto haystack = Haystack::FromFile("evaluation/haystack/persuasion.txt");
    SA_CHECK_OK(haystack);
    haystack_ = new Haystack(*std::move(haystack));
  }

  EvaluationOptions Options() const {
    EvaluationOptions options;
    options.tasks = {"niah_single"};
    options.contexts = {1024};
    options.pipelines = {{"dense", {}}};
    options.samples = 1;
    options.model_id = "m";
    options.out = ::testing::TempDir() + "/" +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name();
    return options;
  }

  static const HuggingFaceAdapter* adapter_;
  static const Haystack* haystack_;
};
const HuggingFaceAdapter* RunnerTest::adapter_ = nullptr;
const Haystack* RunnerTest::haystack_ = nullptr;

TEST_F(RunnerTest, AnswersFromOnePrefillAndReportsProgress) {
  EvaluationOptions options = Options();
  SA_ASSERT_OK_AND_ASSIGN(
      const PipelineConfig sparse,
      PipelineFromJson(*ParseJson(
          R"({"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": 64}]})")));
  options.pipelines.push_back({"top_64", sparse});
  int reports = 0;
  EvaluationProgress last;
  options.on_progress = [&](const EvaluationProgress& progress) {
    ++reports;
    last = progress;
  };
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<Cell> cells,
                          RunEvaluation(*adapter_, *haystack_, options));
  ASSERT_EQ(cells.size(), 2u);
  EXPECT_EQ(cells[0].samples[0].score, 1);
  EXPECT_EQ(cells[0].samples[0].measurements.density, 1);
  EXPECT_NEAR(cells[1].samples[0].measurements.density, 64.0 / 1024, 0.01);
  EXPECT_GT(cells[1].OutputError().Mean(), 0);
  EXPECT_TRUE(cells[1].oracle);
  EXPECT_GE(reports, 2);
  EXPECT_EQ(last.done, 2);
  EXPECT_EQ(last.total, 2);
}

TEST_F(RunnerTest, AChangedConfigOrModelMeetsNoOldResult) {
  EvaluationOptions options = Options();
  options.resume = true;
  int64_t reused = -1;
  options.on_progress = [&reused](const EvaluationProgress& p) { reused = p.reused; };
  SA_ASSERT_OK(RunEvaluation(*adapter_, *haystack_, options).status());
  SA_ASSERT_OK(RunEvaluation(*adapter_, *haystack_, options).status());
  EXPECT_EQ(reused, 1);
  options.model_id = "another";
  SA_ASSERT_OK(RunEvaluation(*adapter_, *haystack_, options).status());
  EXPECT_EQ(reused, 0);
  options.pipelines[0].config.seed = 7;
  SA_ASSERT_OK(RunEvaluation(*adapter_, *haystack_, options).status());
  EXPECT_EQ(reused, 0);
}

TEST_F(RunnerTest, WrongOptionsAreExplained) {
  const auto error = [&](auto change) {
    EvaluationOptions options = Options();
    change(options);
    return RunEvaluation(*adapter_, *haystack_, options).status();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(error([](auto& o) { o.tasks = {"niah"}; }),
              StatusIs(kInvalid, HasSubstr("there is no task \"niah\"")));
  EXPECT_THAT(error([](auto& o) { o.contexts = {100}; }), StatusIs(kInvalid, HasSubstr("got 100")));
  EXPECT_THAT(error([](auto& o) { o.contexts = {1 << 20}; }), StatusIs(kInvalid));
  EXPECT_THAT(error([](auto& o) { o.samples = 0; }), StatusIs(kInvalid, HasSubstr("samples")));
  EXPECT_THAT(
      error([](auto& o) { o.pipelines.push_back(o.pipelines[0]); }),
      StatusIs(kInvalid, HasSubstr("two configs of the research engine are named \"dense\"")));
  EXPECT_THAT(error([](auto& o) { o.pipelines.clear(); }), StatusIs(kInvalid));
}

TEST(ModelFingerprint, FollowsTheFiles) {
  SA_ASSERT_OK_AND_ASSIGN(const std::string shipped, ModelFingerprint(kModel));
  EXPECT_EQ(shipped.size(), 16u);
  const std::string folder = ::testing::TempDir() + "/model";
  SA_CHECK(system(("rm -rf " + folder + " && mkdir -p " + folder).c_str()) == 0);
  std::ofstream(folder + "/config.json") << "{}";
  SA_ASSERT_OK_AND_ASSIGN(const std::string first, ModelFingerprint(folder));
  std::ofstream(folder + "/config.json") << "{ }";
  SA_ASSERT_OK_AND_ASSIGN(const std::string second, ModelFingerprint(folder));
  EXPECT_NE(first, second);
  EXPECT_THAT(ModelFingerprint(folder + "/no"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace sparse_attention
