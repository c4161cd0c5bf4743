#include "evaluation/tasks.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "adapters/huggingface/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

// Words count one, digits and marks one each.
absl::StatusOr<int64_t> CountPieces(absl::string_view text) {
  int64_t count = 0;
  bool in_word = false;
  for (const char c : text) {
    const bool letter = absl::ascii_isalpha(c);
    if (letter ? !in_word : !absl::ascii_isspace(c)) ++count;
    in_word = letter;
  }
  return count;
}

class TasksTest : public ::testing::Test {
 protected:
  TaskSample Make(absl::string_view task, int64_t budget, uint64_t seed, int64_t index) {
    absl::StatusOr<TaskSample> sample =
        MakeSample(task, haystack_, budget, seed, index, CountPieces);
    EXPECT_THAT(sample, IsOk()) << task;
    return sample.ok() ? *sample : TaskSample();
  }

  const Haystack haystack_ = *Haystack::FromFile("evaluation/haystack/persuasion.txt");
};

int Occurrences(absl::string_view text, absl::string_view word) {
  return std::vector<absl::string_view>(absl::StrSplit(text, word)).size() - 1;
}

TEST_F(TasksTest, SingleNeedleSampleInFull) {
  const TaskSample sample = Make("niah_single", 1024, 1, 0);
  EXPECT_EQ(sample.task, "niah_single");
  ASSERT_THAT(sample.answers, SizeIs(1));
  EXPECT_THAT(sample.answers[0], MatchesRegex("[1-9][0-9]{5}"));
  EXPECT_THAT(sample.question,
              MatchesRegex("\n\nQuestion: What is the magic number of [a-z]{6}\\?\n"));
  const std::string key = sample.question.substr(sample.question.size() - 8, 6);
  EXPECT_EQ(sample.answer_prefix, absl::StrCat("Answer: The magic number of ", key, " is"));
  EXPECT_EQ(Occurrences(sample.context, "magic"), 1);
  EXPECT_THAT(sample.context, HasSubstr(absl::StrCat(" The magic number of ", key, " is ",
                                                     sample.answers[0], ".")));
}

TEST_F(TasksTest, MultikeyNeedlesGrowWithTheContext) {
  for (const auto& [budget, needles] : std::map<int64_t, int>{
           {600, 4}, {1024, 4}, {4096, 16}, {8192, 32}, {16384, 64}, {32768, 64}}) {
    const TaskSample sample = Make("niah_multikey", budget, 1, 0);
    EXPECT_EQ(Occurrences(sample.context, " The magic number of "), needles) << budget;
    EXPECT_EQ(Occurrences(sample.context, sample.answers[0]), 1);
  }
}

TEST_F(TasksTest, MultivalueAnswersFollowTheContext) {
  const TaskSample sample = Make("niah_multivalue", 2048, 1, 0);
  ASSERT_THAT(sample.answers, SizeIs(4));
  size_t last = 0;
  for (const std::string& answer : sample.answers) {
    EXPECT_GT(sample.context.find(answer), last);
    last = sample.context.find(answer);
  }
  EXPECT_EQ(Occurrences(sample.context, " The magic number of "), 8);
  const std::string key = sample.question.substr(sample.question.size() - 8, 6);
  EXPECT_EQ(Occurrences(sample.context, key), 4);
}

TEST_F(TasksTest, VariableChainsLeadFromTheValueToEveryAnswer) {
  const TaskSample sample = Make("variable_tracking", 2048, 1, 0);
  ASSERT_THAT(sample.answers, SizeIs(5));
  EXPECT_THAT(sample.answers, Each(MatchesRegex("[A-Z]{3}")));
  EXPECT_EQ(Occurrences(sample.context, " Store "), 2);
  EXPECT_EQ(Occurrences(sample.context, " Copy VAR "), 8);
  const std::string value = sample.question.substr(sample.question.size() - 8, 6);
  size_t last =
      sample.context.find(absl::StrCat(" Store ", value, " in VAR ", sample.answers[0], "."));
  for (int i = 1; i < 5; ++i) {
    const size_t at = sample.context.find(
        absl::StrCat(" Copy VAR ", sample.answers[i - 1], " to VAR ", sample.answers[i], "."));
    ASSERT_NE(at, std::string::npos);
    EXPECT_GT(at, last);
    last = at;
  }
}

TEST_F(TasksTest, CommonWordsHaveTheirExactShares) {
  const TaskSample sample = Make("common_words", 4000, 1, 0);
  std::map<std::string, int> counts;
  for (const absl::string_view word : absl::StrSplit(sample.context, ' ')) {
    ++counts[std::string(word)];
  }
  EXPECT_THAT(counts, SizeIs(63));
  ASSERT_THAT(sample.answers, SizeIs(3));
  EXPECT_EQ(counts[sample.answers[0]], 600);
  EXPECT_EQ(counts[sample.answers[1]], 440);
  EXPECT_EQ(counts[sample.answers[2]], 320);
  for (const std::string& answer : sample.answers) counts.erase(answer);
  for (const auto& [word, count] : counts) EXPECT_EQ(count, 44) << word;
}

// The rule that keeps training and evaluation apart, as docs/tasks.md states it.
TEST_F(TasksTest, NamesAreThoseHeldOutFromTraining) {
  const std::string consonants = "bdfgklmnprstvz", vowels = "aeiou";
  for (int index = 0; index < 100; ++index) {
    const TaskSample keys = Make("niah_single", 512, 9, index);
    const std::string key = keys.question.substr(keys.question.size() - 8, 6);
    size_t sum = 0;
    for (int i = 0; i < 6; i += 2) sum += 5 * consonants.find(key[i]) + vowels.find(key[i + 1]);
    EXPECT_EQ(sum % 8, 0u) << key;
    for (const std::string& name : Make("variable_tracking", 512, 9, index).answers) {
      EXPECT_EQ((name[0] + name[1] + name[2] - 3 * 'A') % 8, 0) << name;
    }
  }
}

TEST_F(TasksTest, SamplesDependOnSeedIndexAndBudgetAlone) {
  for (const absl::string_view task : TaskNames()) {
    const TaskSample sample = Make(task, 1024, 5, 3);
    Make(task, 1024, 5, 2);
    const TaskSample again = Make(task, 1024, 5, 3);
    EXPECT_EQ(sample.context, again.context);
    EXPECT_EQ(sample.question, again.question);
    EXPECT_EQ(sample.answers, again.answers);
    std::set<std::string> contexts = {sample.context};
    contexts.insert(Make(task, 1024, 6, 3).context);
    contexts.insert(Make(task, 1024, 5, 4).context);
    contexts.insert(Make(task, 1025, 5, 3).context);
    EXPECT_THAT(contexts, SizeIs(4)) << task;
  }
}

// A change of these draws changes every published number: it must be meant.
TEST_F(TasksTest, SeedZeroStaysWhatItIs) {
  EXPECT_EQ(Make("niah_single", 1024, 0, 0).answer_prefix, "Answer: The magic number of gonatu is");
  EXPECT_THAT(Make("common_words", 1024, 0, 0).answers, ElementsAre("data", "class", "line"));
  EXPECT_THAT(Make("variable_tracking", 1024, 0, 0).answers,
              ElementsAre("FCR", "NSJ", "GLX", "CQW", "ASW"));
}

TEST_F(TasksTest, TheShippedTokenizerFillsTheBudget) {
  SA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer,
                          Tokenizer::FromFile("models/retrieval-6m/tokenizer.json"));
  const TokenCounter count = [&](absl::string_view text) -> absl::StatusOr<int64_t> {
    SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text));
    return ids.size();
  };
  for (const absl::string_view task : TaskNames()) {
    // A few budgets and texts: tokens of joined text differ from those of its pieces.
    for (const int64_t budget : {1024, 1024 + 1, 1024 + 2, 1024 + 3, 4096, 32768}) {
      SA_ASSERT_OK_AND_ASSIGN(const TaskSample sample,
                              MakeSample(task, haystack_, budget, 11, budget, count));
      SA_ASSERT_OK_AND_ASSIGN(const int64_t tokens, count(sample.context));
      EXPECT_LE(tokens, budget) << task;
      EXPECT_GE(tokens, 0.98 * budget) << task;
      // Parts may be tokenized one by one.
      SA_ASSERT_OK_AND_ASSIGN(std::vector<int32_t> ids, tokenizer->Encode(sample.question));
      SA_ASSERT_OK_AND_ASSIGN(const auto prefix, tokenizer->Encode(sample.answer_prefix));
      ids.insert(ids.end(), prefix.begin(), prefix.end());
      EXPECT_THAT(tokenizer->Encode(sample.question + sample.answer_prefix), IsOkAndHolds(ids));
      // The answer with its commas and the end of text fits the limit.
      EXPECT_THAT(count(absl::StrCat(" ", absl::StrJoin(sample.answers, ", "))),
                  IsOkAndHolds(::testing::Lt(sample.max_new_tokens)));
    }
  }
}

TEST_F(TasksTest, PassagesAreTextOfTheHaystack) {
  SA_ASSERT_OK_AND_ASSIGN(const std::string passage,
                          MakePassage(haystack_, 1000, 1, 0, CountPieces));
  EXPECT_THAT(CountPieces(passage),
              IsOkAndHolds(::testing::AllOf(::testing::Le(1000), ::testing::Ge(980))));
  SA_ASSERT_OK_AND_ASSIGN(const std::string other, MakePassage(haystack_, 1000, 1, 1, CountPieces));
  EXPECT_NE(passage, other);
  EXPECT_FALSE(absl::StrContains(passage, "magic number"));
}

TEST_F(TasksTest, RefusalsNameTaskRuleAndValue) {
  const auto message = [&](absl::string_view task, int64_t budget, int64_t index) {
    const auto sample = MakeSample(task, haystack_, budget, 1, index, CountPieces);
    EXPECT_EQ(sample.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(sample.status().message());
  };
  EXPECT_EQ(message("niah_singel", 1024, 0),
            "no task \"niah_singel\" (tasks: niah_single, niah_multikey, niah_multivalue, "
            "variable_tracking, common_words)");
  EXPECT_THAT(message("niah_multikey", 100, 0), MatchesRegex("niah_multikey: token_budget must be "
                                                             ">= [0-9]+, got 100"));
  EXPECT_THAT(message("common_words", 100, 0), HasSubstr("common_words: token_budget must"));
  EXPECT_THAT(message("niah_single", 0, 0), HasSubstr("niah_single: token_budget must be in [1, "));
  EXPECT_THAT(message("niah_single", 1024, -1), HasSubstr("niah_single: index must be in [0, "));
}

TEST(ScoreTest, IsTheShareOfAnswersFoundAsWholeWords) {
  TaskSample sample;
  sample.answers = {"123456", "KQZ", "lock", "port"};
  EXPECT_EQ(Score(sample, " 123456, KQZ, lock, port"), 1.0);
  EXPECT_EQ(Score(sample, "port lock (kqz) 123456."), 1.0);
  EXPECT_EQ(Score(sample, " 1234567, KQZA, block, ports"), 0.0);
  EXPECT_EQ(Score(sample, " block lock, 123456"), 0.5);
  EXPECT_EQ(Score(sample, ""), 0.0);
}

}  // namespace
}  // namespace sparse_attention
