#include "adapters/huggingface/tokenizer_added_tokens.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

AddedToken Token(int32_t id, const std::string& content) {
  AddedToken token;
  token.id = id;
  token.content = content;
  return token;
}

std::vector<std::pair<std::string, int32_t>> Split(const std::vector<AddedToken>& tokens,
                                                   absl::string_view text) {
  std::vector<AddedTokenMatcher::Segment> segments;
  AddedTokenMatcher(tokens).Split(text, segments);
  std::vector<std::pair<std::string, int32_t>> result;
  for (const auto& segment : segments) result.emplace_back(std::string(segment.text), segment.id);
  return result;
}

TEST(AddedTokens, LeftmostThenLongest) {
  const std::vector<AddedToken> tokens = {Token(1, "<a"), Token(2, "<ab>"), Token(3, "b>c"),
                                          Token(4, "<ab>")};
  EXPECT_THAT(Split(tokens, "x<ab>c<a<"), ElementsAre(Pair("x", -1), Pair("<ab>", 2), Pair("c", -1),
                                                      Pair("<a", 1), Pair("<", -1)));
  EXPECT_THAT(Split(tokens, "<ab"), ElementsAre(Pair("<a", 1), Pair("b", -1)));
  EXPECT_THAT(Split(tokens, ""), IsEmpty());
  EXPECT_THAT(Split({}, "x"), ElementsAre(Pair("x", -1)));
}

TEST(AddedTokens, StripTakesWhiteSpaceAlong) {
  AddedToken left = Token(1, "<l>"), right = Token(2, "<r>");
  left.lstrip = true;
  right.rstrip = true;
  EXPECT_THAT(Split({left, right}, "a \u3000<l> b <r>\n c"),
              ElementsAre(Pair("a", -1), Pair(" \u3000<l>", 1), Pair(" b ", -1), Pair("<r>\n ", 2),
                          Pair("c", -1)));
  // What the first took is not there for the second.
  EXPECT_THAT(Split({left, right}, "<r>  <l>"), ElementsAre(Pair("<r>  ", 2), Pair("<l>", 1)));
}

TEST(AddedTokens, StripMayReachIntoTheNextToken) {
  AddedToken right = Token(1, "<r>");
  right.rstrip = true;
  AddedToken both = Token(2, "  ");
  both.lstrip = true;
  EXPECT_THAT(Split({right, Token(2, " x")}, "<r> x"), ElementsAre(Pair("<r> ", 1), Pair(" x", 2)));
  EXPECT_THAT(Split({right, both}, "<r>    y"),
              ElementsAre(Pair("<r>    ", 1), Pair("", 2), Pair("", 2), Pair("y", -1)));
}

TEST(AddedTokens, SingleWordsStandAlone) {
  AddedToken word = Token(1, "foo");
  word.single_word = true;
  EXPECT_THAT(Split({word}, "foo,foo"), ElementsAre(Pair("foo", 1), Pair(",", -1), Pair("foo", 1)));
  for (const char* const text : {"foob", "afoo", "_foo", "foo\u0301", "foo\u200D", "世foo"}) {
    EXPECT_THAT(Split({word}, text), ElementsAre(Pair(text, -1)));
  }
}

}  // namespace
}  // namespace sparse_attention
