#include "evaluation/fill_context.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<int64_t> CountWords(absl::string_view text) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  return words.size();
}

// Sentences of 1 to 19 words, each word unique, so that a context can be traced.
Haystack NumberedHaystack() {
  std::string text;
  for (int sentence = 0; sentence < 400; ++sentence) {
    for (int word = 0; word <= sentence * 7 % 19; ++word) {
      absl::StrAppend(&text, "s", sentence, "w", word, word == sentence * 7 % 19 ? ". " : " ");
    }
  }
  return *Haystack::FromText(text);
}

PhiloxStream Stream(uint64_t seed) { return PhiloxStream(seed, RandomPurpose::kTest, 0, 0, 0); }

TEST(FillContextTest, UsesTheBudgetToTheLastWord) {
  const Haystack haystack = NumberedHaystack();
  const std::vector<NeedleGroup> groups = {{" first needle."}, {" second needle."}};
  for (const int64_t budget : {100, 1000, 1001, 1002, 1003, 20000}) {
    PhiloxStream random = Stream(budget);
    SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                            FillContext(haystack, groups, budget, CountWords, random));
    EXPECT_THAT(CountWords(context), IsOkAndHolds(budget));
  }
}

TEST(FillContextTest, StaysWithinABudgetThatTheJoinedTextExceeds) {
  // Counts 1 % more once pieces are joined, as a tokenizer without the split at blanks might.
  const TokenCounter count = [](absl::string_view text) -> absl::StatusOr<int64_t> {
    SA_ASSIGN_OR_RETURN(const int64_t words, CountWords(text));
    return words + words / 100;
  };
  const Haystack haystack = NumberedHaystack();
  PhiloxStream random = Stream(1);
  SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                          FillContext(haystack, {{" needle."}}, 3000, count, random));
  SA_ASSERT_OK_AND_ASSIGN(const int64_t tokens, count(context));
  EXPECT_LE(tokens, 3000);
  EXPECT_GE(tokens, 2940);
}

TEST(FillContextTest, NeedlesStandBetweenSentencesInTheOrderOfTheirGroup) {
  const Haystack haystack = NumberedHaystack();
  const NeedleGroup chain = {" one.", " two.", " three.", " four."};
  for (int seed = 0; seed < 50; ++seed) {
    PhiloxStream random = Stream(seed);
    SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                            FillContext(haystack, {chain, {" other."}}, 500, CountWords, random));
    size_t last = 0;
    for (const std::string& needle : chain) {
      const size_t at = context.find(needle);
      ASSERT_NE(at, std::string::npos) << needle;
      EXPECT_GT(at, last);
      EXPECT_EQ(context[at - 1], '.');
      last = at;
    }
  }
}

TEST(FillContextTest, NeedlesStandInsideParagraphs) {
  std::string text;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&text, "Sentence one. Two of them.\n");
  const Haystack haystack = *Haystack::FromText(text);
  for (int seed = 0; seed < 50; ++seed) {
    PhiloxStream random = Stream(seed);
    SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                            FillContext(haystack, {{" needle."}}, 200, CountWords, random));
    EXPECT_THAT(context, HasSubstr("one. needle. Two"));
  }
}

TEST(FillContextTest, ReachesEveryDepth) {
  const Haystack haystack = NumberedHaystack();
  std::vector<int> tenths(10);
  for (int seed = 0; seed < 2000; ++seed) {
    PhiloxStream random = Stream(seed);
    SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                            FillContext(haystack, {{" needle."}}, 400, CountWords, random));
    ++tenths[std::min<size_t>(9, context.find(" needle.") * 10 / context.size())];
  }
  // Each tenth expects 200; five standard deviations are 67.
  for (const int count : tenths) EXPECT_NEAR(count, 200, 67);
}

TEST(FillContextTest, WithoutNeedlesIsRunningText) {
  const Haystack haystack = NumberedHaystack();
  PhiloxStream random = Stream(3);
  SA_ASSERT_OK_AND_ASSIGN(const std::string context,
                          FillContext(haystack, {}, 300, CountWords, random));
  std::string around;
  for (int i = 0; i < 800; ++i) absl::StrAppend(&around, haystack.sentence(i));
  EXPECT_TRUE(absl::StrContains(around, context));
}

TEST(FillContextTest, RefusesABudgetWithoutRoom) {
  const Haystack haystack = NumberedHaystack();
  PhiloxStream random = Stream(4);
  EXPECT_THAT(FillContext(haystack, {{" a needle here."}}, 66, CountWords, random),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("token_budget must be >= 67, got 66")));
}

TEST(FillContextTest, ErrorsOfTheCounterComeThrough) {
  const Haystack haystack = NumberedHaystack();
  PhiloxStream random = Stream(5);
  const auto broken = [](absl::string_view) -> absl::StatusOr<int64_t> {
    return absl::UnavailableError("no tokenizer");
  };
  EXPECT_THAT(FillContext(haystack, {}, 100, broken, random),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no tokenizer")));
  const auto zero = [](absl::string_view) -> absl::StatusOr<int64_t> { return 0; };
  EXPECT_THAT(FillContext(haystack, {}, 100, zero, random),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must be > 0, got 0")));
}

}  // namespace
}  // namespace sparse_attention
