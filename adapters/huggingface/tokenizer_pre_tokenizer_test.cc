#include "adapters/huggingface/tokenizer_pre_tokenizer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Kind = PreTokenizerStep::Kind;

PreTokenizerStep PrefixSpace() {
  PreTokenizerStep step;
  step.kind = Kind::kPrefixSpace;
  return step;
}

absl::StatusOr<std::vector<std::string>> Split(const std::vector<PreTokenizerStep>& steps,
                                               absl::string_view text) {
  SA_ASSIGN_OR_RETURN(const PreTokenizer pre_tokenizer, PreTokenizer::Create(steps));
  PreTokenizer::Scratch scratch;
  std::vector<absl::string_view> words;
  SA_RETURN_IF_ERROR(pre_tokenizer.Split(text, scratch, words));
  return std::vector<std::string>(words.begin(), words.end());
}

TEST(PreTokenizer, Behaviors) {
  const std::string text = "the-final--countdown";
  const auto split = [&text](SplitBehavior behavior) {
    return Split({{Kind::kLiteral, "-", behavior}}, text);
  };
  EXPECT_THAT(split(SplitBehavior::kRemoved),
              IsOkAndHolds(ElementsAre("the", "final", "countdown")));
  EXPECT_THAT(split(SplitBehavior::kIsolated),
              IsOkAndHolds(ElementsAre("the", "-", "final", "-", "-", "countdown")));
  EXPECT_THAT(split(SplitBehavior::kMergedWithPrevious),
              IsOkAndHolds(ElementsAre("the-", "final-", "-", "countdown")));
  EXPECT_THAT(split(SplitBehavior::kMergedWithNext),
              IsOkAndHolds(ElementsAre("the", "-final", "-", "-countdown")));
  EXPECT_THAT(split(SplitBehavior::kContiguous),
              IsOkAndHolds(ElementsAre("the", "-", "final", "--", "countdown")));
}

TEST(PreTokenizer, InvertSwapsMatchesAndGaps) {
  EXPECT_THAT(Split({{Kind::kRegex, "\\p{L}+", SplitBehavior::kRemoved, true}}, "ab1-cd"),
              IsOkAndHolds(ElementsAre("ab", "cd")));
}

TEST(PreTokenizer, LiteralsAreNoPatterns) {
  EXPECT_THAT(Split({{Kind::kLiteral, "a.", SplitBehavior::kIsolated}}, "aba.b"),
              IsOkAndHolds(ElementsAre("ab", "a.", "b")));
}

TEST(PreTokenizer, Gpt2Pattern) {
  EXPECT_THAT(
      Split({{Kind::kRegex, kGpt2SplitPattern}}, "Hello there,  it's 1234\n\n x"),
      IsOkAndHolds(ElementsAre("Hello", " there", ",", " ", " it", "'s", " 1234", "\n\n", " x")));
}

TEST(PreTokenizer, EachStepSeesOnePieceAtATime) {
  // "^" matches at the start of every piece that the digits leave.
  EXPECT_THAT(Split({{Kind::kDigits, "", SplitBehavior::kIsolated},
                     {Kind::kRegex, "^a", SplitBehavior::kIsolated}},
                    "aa1ab22"),
              IsOkAndHolds(ElementsAre("a", "a", "1", "a", "b", "2", "2")));
}

TEST(PreTokenizer, PrefixSpace) {
  EXPECT_THAT(Split({{Kind::kDigits, "", SplitBehavior::kContiguous}, PrefixSpace()}, "a 12b c"),
              IsOkAndHolds(ElementsAre(" a ", " 12", " b c")));
  EXPECT_THAT(Split({PrefixSpace(), {Kind::kRegex, " \\p{L}"}}, "\U00010D4Ax"),
              IsOkAndHolds(ElementsAre(" \U00010D4A", "x")));
  EXPECT_THAT(Split({PrefixSpace()}, ""), IsOkAndHolds(IsEmpty()));
}

TEST(PreTokenizer, EmptyMatchesCutAndEnd) {
  EXPECT_THAT(Split({{Kind::kRegex, "x*"}}, "axé"), IsOkAndHolds(ElementsAre("a", "x", "é")));
}

TEST(PreTokenizer, NoStepKeepsTheText) {
  EXPECT_THAT(Split({}, "a b"), IsOkAndHolds(ElementsAre("a b")));
}

TEST(PreTokenizer, CharactersThatPcre2DoesNotKnow) {
  // Letters, digits and a symbol of Unicode 15 and 16.
  EXPECT_THAT(
      Split({{Kind::kRegex, "\\p{L}+|\\p{N}+"}}, "\U00010D4A\U000323AFa\U00010D40\u1C8A\u2427!"),
      IsOkAndHolds(ElementsAre("\U00010D4A\U000323AFa", "\U00010D40", "\u1C8A", "\u2427!")));
}

// A group that repeats takes memory for each round: first the JIT's stack, then the interpreter's
// heap.
TEST(PreTokenizer, LongRepetitions) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "ab";
  EXPECT_THAT(Split({{Kind::kRegex, "(?:a|b)+"}}, text + "c"),
              IsOkAndHolds(ElementsAre(text, "c")));
}

TEST(PreTokenizer, EndlessBacktrackingIsGivenUp) {
  EXPECT_THAT(Split({{Kind::kRegex, "(?:a|aa)+[cd]"}}, std::string(100, 'a')),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("split pattern gave up at byte 0: match limit exceeded")));
}

TEST(PreTokenizer, BrokenPatternsAreNamed) {
  EXPECT_THAT(PreTokenizer::Create({{{Kind::kRegex, "(a"}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("(in \"(a\")")));
  EXPECT_THAT(PreTokenizer::Create({{{Kind::kRegex, "[z-a]"}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("range out of order")));
  EXPECT_THAT(PreTokenizer::Create({{{Kind::kRegex, "\\w"}}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"\\w\"")));
}

}  // namespace
}  // namespace sparse_attention
