#include "evaluation/journal.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

SampleResult Result(const std::string& key, double score) {
  SampleResult result;
  result.key = key;
  result.config = "dense";
  result.task = "niah_single";
  result.context = 4096;
  result.score = score;
  result.prediction = " 12\n\xc3\xa4";
  result.measurements.density = 0.25;
  result.measurements.output_error.Add(0.125, 3);
  return result;
}

class JournalTest : public ::testing::Test {
 protected:
  JournalTest()
      : folder_(::testing::TempDir() + "/" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    SA_CHECK(system(("rm -rf " + folder_ + " && mkdir -p " + folder_).c_str()) == 0);
  }
  std::string Path() const { return folder_ + "/journal.jsonl"; }
  std::string Text() const {
    std::ifstream file(Path());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void SetText(const std::string& text) { std::ofstream(Path(), std::ios::trunc) << text; }

  std::string folder_;
};

TEST_F(JournalTest, GoesOnWhereItStopped) {
  EXPECT_FALSE(Journal::Exists(folder_));
  {
    SA_ASSERT_OK_AND_ASSIGN(const auto journal, Journal::Open(folder_));
    EXPECT_EQ(journal->Find("a"), nullptr);
    SA_EXPECT_OK(journal->Append(Result("a", 1)));
    SA_EXPECT_OK(journal->Append(Result("b", 0.5)));
  }
  EXPECT_TRUE(Journal::Exists(folder_));
  SA_ASSERT_OK_AND_ASSIGN(const auto journal, Journal::Open(folder_));
  ASSERT_NE(journal->Find("b"), nullptr);
  EXPECT_EQ(journal->Find("b")->score, 0.5);
  EXPECT_EQ(journal->Find("b")->prediction, " 12\n\xc3\xa4");
  EXPECT_EQ(journal->Find("b")->measurements.density, 0.25);
  EXPECT_EQ(journal->Find("b")->measurements.output_error.count(), 3);
  EXPECT_EQ(journal->Find("c"), nullptr);
}

TEST_F(JournalTest, ATornLastLineIsLostAndNothingElse) {
  {
    SA_ASSERT_OK_AND_ASSIGN(const auto journal, Journal::Open(folder_));
    SA_ASSERT_OK(journal->Append(Result("a", 1)));
    SA_ASSERT_OK(journal->Append(Result("b", 1)));
  }
  const std::string whole = Text();
  const size_t first = whole.find('\n') + 1;
  for (size_t length = first; length < whole.size(); ++length) {
    SetText(whole.substr(0, length));
    SA_ASSERT_OK_AND_ASSIGN(const auto journal, Journal::Open(folder_));
    ASSERT_EQ(journal->size(), 1) << length;
    SA_ASSERT_OK(journal->Append(Result("b", 1)));
    ASSERT_EQ(Text(), whole) << length;
  }
}

TEST_F(JournalTest, ADamagedLineIsNamed) {
  {
    SA_ASSERT_OK_AND_ASSIGN(const auto journal, Journal::Open(folder_));
    SA_ASSERT_OK(journal->Append(Result("a", 1)));
  }
  SetText(Text() + "{\"key\": 3}\n" + Text());
  EXPECT_THAT(Journal::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2")));
}

TEST_F(JournalTest, AFolderThatIsNotThereIsNamed) {
  EXPECT_THAT(Journal::Open(folder_ + "/no"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/no/journal.jsonl")));
}

TEST(StableHash, KnownAnswers) {
  EXPECT_EQ(StableHash(""), "cbf29ce484222325");
  EXPECT_EQ(StableHash("a"), "af63dc4c8601ec8c");
  EXPECT_EQ(StableHash("foobar"), "85944171f73967e8");
}

}  // namespace
}  // namespace sparse_attention
