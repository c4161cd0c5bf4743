#include "adapters/huggingface/tokenizer_unicode.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::Eq;
using ::testing::Optional;

constexpr char kReplacement[] = "\uFFFD";

TEST(Unicode, DecodesTheEdgesOfEachLength) {
  const struct {
    absl::string_view bytes;
    char32_t code_point;
  } kCases[] = {{absl::string_view("\0", 1), 0},
                {"\x7F", 0x7F},
                {"\xC2\x80", 0x80},
                {"\xDF\xBF", 0x7FF},
                {"\xE0\xA0\x80", 0x800},
                {"\xED\x9F\xBF", 0xD7FF},
                {"\xEF\xBF\xBF", 0xFFFF},
                {"\xF0\x90\x80\x80", 0x10000},
                {"\xF4\x8F\xBF\xBF", 0x10FFFF}};
  for (const auto& c : kCases) {
    const Utf8Unit unit = DecodeUtf8(c.bytes);
    EXPECT_TRUE(unit.valid);
    EXPECT_EQ(unit.code_point, c.code_point);
    EXPECT_EQ(unit.length, c.bytes.size());
    EXPECT_EQ(LastCodePoint(c.bytes), c.code_point);
    EXPECT_EQ(FindInvalidUtf8(c.bytes), std::nullopt);
  }
}

// One replacement for each longest start of a code point, as Rust and Python have it.
TEST(Unicode, ReplacesWhatIsNoCodePoint) {
  const struct {
    std::string bytes;
    int replacements;
  } kCases[] = {
      {"\x80", 1},
      {"\xC0\xAF", 2},          // overlong
      {"\xE0\x80\x80", 3},      // overlong
      {"\xED\xA0\x80", 3},      // surrogate
      {"\xF4\x90\x80\x80", 4},  // beyond U+10FFFF
      {"\xE4\xB8", 1},          // truncated
      {"\xF0\x9F\x98", 1},      // truncated
      {"\xE4\xB8\xE4\xB8", 2},
  };
  for (const auto& c : kCases) {
    std::string bytes = "x" + c.bytes + "y";
    EXPECT_THAT(FindInvalidUtf8(bytes), Optional(1u));
    std::string text, expected = "x";
    for (int i = 0; i < c.replacements; ++i) expected += kReplacement;
    MoveUtf8(bytes, /*flush=*/false, text);
    EXPECT_EQ(text, expected + "y");
    EXPECT_EQ(bytes, "");
  }
}

TEST(Unicode, KeepsAnIncompleteCodePointUntilFlushed) {
  std::string bytes = "a\xF0\x9F", text;
  MoveUtf8(bytes, /*flush=*/false, text);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(bytes, "\xF0\x9F");
  bytes += "\x98\x80\xE2\x82";
  MoveUtf8(bytes, /*flush=*/false, text);
  EXPECT_EQ(text, "a😀");
  MoveUtf8(bytes, /*flush=*/true, text);
  EXPECT_EQ(text, std::string("a😀") + kReplacement);
  EXPECT_EQ(bytes, "");
}

TEST(Unicode, Classes) {
  for (const char32_t c : {U'\t', U'\r', U' ', U'\u0085', U'\u00A0', U'\u2028', U'\u3000'}) {
    EXPECT_TRUE(IsWhiteSpace(c)) << static_cast<uint32_t>(c);
  }
  for (const char32_t c : {U'\u180E', U'\u200B', U'\x1C', U'a', U'\uFEFF'}) {
    EXPECT_FALSE(IsWhiteSpace(c)) << static_cast<uint32_t>(c);
  }
  for (const char32_t c : {U'a', U'_', U'7', U'é', U'世', U'\u0301', U'\u200D', U'Ⅷ', U'Ⓐ',
                           U'\U00010D4A' /* Garay, Unicode 16 */}) {
    EXPECT_TRUE(IsWordCharacter(c)) << static_cast<uint32_t>(c);
  }
  for (const char32_t c : {U' ', U'-', U'½', U'😀', U'。'}) {
    EXPECT_FALSE(IsWordCharacter(c)) << static_cast<uint32_t>(c);
  }
}

TEST(Unicode, StandInsKeepTheLength) {
  EXPECT_EQ(ReplaceNewCharacters("plain, naïve, 世界, 😀"), std::nullopt);
  const std::string text =
      "a\U000323AF b\uA7CBc\U00010D40";  // Han, letter, digit of Unicode 15, 16
  const std::optional<std::string> replaced = ReplaceNewCharacters(text);
  EXPECT_THAT(replaced, Optional(Eq("a\U00020000 b\u10A0c\U000104A0")));
  EXPECT_EQ(replaced->size(), text.size());
}

TEST(Unicode, NormalizesToFormC) {
  const struct {
    std::string text, normalized;
  } kCases[] = {
      {"e\u0301", "é"},
      {"e\u0301 and more: o\u0308 ü", "é and more: ö ü"},
      {"\u1112\u1161\u11AB", "한"},
      {"하\u11AB", "한"},
      {"q\u0307\u0323", "q\u0323\u0307"},
      {"\u212B", "Å"},
      {"世e\u0301界", "世é界"},
      {"か\u3099", "が"},
  };
  for (const auto& c : kCases) {
    EXPECT_THAT(NormalizeNfc(c.text), Optional(c.normalized)) << c.text;
    EXPECT_EQ(NormalizeNfc(c.normalized), std::nullopt) << c.normalized;
  }
}

// A million marks in the wrong order take no more than moments.
TEST(Unicode, OrdersManyMarks) {
  std::string text = "a", first, second;
  for (int i = 0; i < 500000; ++i) text += "\u0307\u0323";
  for (int i = 0; i < 500000; ++i) first += "\u0323", second += "\u0307";
  // The first dot below composes, then a dot above does.
  EXPECT_EQ(NormalizeNfc(text), "ạ" + first.substr(2) + second);
}

// Unicode 9 knows neither mark, so neither moves nor composes.
TEST(Unicode, LeavesMarksOfLaterVersionsAlone) {
  EXPECT_EQ(NormalizeNfc("a\u0301\U0001E4EC"), std::optional<std::string>("á\U0001E4EC"));
  EXPECT_EQ(NormalizeNfc("x\u0301\u0898\u0323"), std::nullopt);
  EXPECT_EQ(NormalizeNfc("\U00011935\U00011930"), std::nullopt);
}

}  // namespace
}  // namespace sparse_attention
