#include "adapters/huggingface/tokenizer_regex.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(SplitPattern, CopiesWhatBothDialectsRead) {
  for (const char* const pattern :
       {"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "\\p{N}{1,3}", "a*?b++c?+",
        "(?=a)(?!b)(?<=c)(?<!d)(?>e)(f)", "[a-z\\-\\]一-龥]+$", "^x.", "\\A\\/\\.\\z", "(?i)ab|c",
        "\\P{Lu}", "a{2,}?", "é+"}) {
    EXPECT_THAT(TranslateSplitPattern(pattern), IsOkAndHolds(std::string(pattern)));
  }
}

TEST(SplitPattern, RewritesWhatTheyReadDifferently) {
  const struct {
    std::string pattern, translated;
  } kCases[] = {
      {"\\d\\D", "\\p{Nd}\\P{Nd}"},
      {"\\v", "\\x0b"},
      {"\\p{^L}\\P{^L}", "\\P{L}\\p{L}"},
      {"\\p{Han}", "\\p{sc:Han}"},
      {"\\p{N}{1,3}+", "(?:\\p{N}{1,3})+"},
      {"x(?:ab|c){2}+y", "x(?:(?:ab|c){2})+y"},
      {"a{,3}", "a{0,3}"},
      {"a{x}", "a\\{x\\}"},
      {"a]", "a\\]"},
      {"\\u3042\\x41", "\\x{3042}\\x{41}"},
  };
  for (const auto& c : kCases) {
    EXPECT_THAT(TranslateSplitPattern(c.pattern), IsOkAndHolds(c.translated));
  }
}

TEST(SplitPattern, RefusesByName) {
  const struct {
    std::string pattern, construct;
    int at;
  } kCases[] = {
      {"a\\w", "\\w", 1},
      {"\\bx", "\\b", 0},
      {"\\h", "\\h", 0},
      {"[[:alpha:]]", "[:", 1},
      {"[a&&b]", "&&", 2},
      {"[\\s-a]", "-a", 3},
      {"[a-\\d]", "\\d", 3},
      {"[]a]", "[]", 0},
      {"[ab", "[ab", 0},
      {"a**", "**", 1},
      {"a{2}?", "{2}?", 1},
      {"a{1,2}++", "{1,2}++", 1},
      {"+a", "+", 0},
      {"|*", "*", 1},
      {"(?<n>a)", "(?<", 0},
      {"(*FAIL)", "(*F", 0},
      {"a(?i)b", "(?i", 1},
      {"a)", ")", 1},
      {"\\p{Greek}", "\\p{Greek}", 0},
      {"\\pL", "\\p", 0},
      {"(?i:\\p{Lu})", "\\p{Lu}", 4},
      {"(?i:stra)", "st", 4},
      {"(?i:é)", "é", 4},
      {"\\x{41}", "\\x", 0},
      {"\\x80", "\\x80", 0},
      {"(a)\\1", "\\1", 3},
      {"a\\", "\\", 1},
  };
  for (const auto& c : kCases) {
    EXPECT_THAT(TranslateSplitPattern(c.pattern),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr(c.construct),
                               HasSubstr(" at byte " + std::to_string(c.at) + " "))))
        << c.pattern;
  }
}

TEST(SplitPattern, EscapesLiterals) { EXPECT_EQ(EscapeSplitPattern("a.b é*"), "a\\.b é\\*"); }

}  // namespace
}  // namespace sparse_attention
