#include "sparse_attention/config/json.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Error(absl::string_view text) {
  const absl::Status status = ParseJson(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

std::string Repeat(absl::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) absl::StrAppend(&out, text);
  return out;
}

TEST(ParseJson, KeepsOrderAndTheKindOfNumbers) {
  for (const char* text :
       {R"({"b":1,"a":1.0,"c":[true,false,null,"x",-3,-0.0,{}]})", "1", "1.0", "0.02", "[]",
        R"("ü\n\"")", "18446744073709551615", "-9223372036854775808", "1e+300", "5e-324"}) {
    SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
    EXPECT_EQ(DumpJson(json), text);
  }
  EXPECT_TRUE(ParseJson("1")->is_number_integer());
  EXPECT_TRUE(ParseJson("1.0")->is_number_float());
  EXPECT_TRUE(ParseJson("1e0")->is_number_float());
}

TEST(ParseJson, DoublesSurviveARoundTripBitForBit) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bits = random();
    double value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(DumpJson(value)));
    ASSERT_TRUE(json.is_number_float());
    ASSERT_EQ(json.get<double>(), value);
  }
}

TEST(ParseJson, DuplicateKeysAreErrorsWithTheirPath) {
  EXPECT_EQ(Error(R"({"seed": 1, "seed": 2})"), "duplicate key \"seed\"");
  EXPECT_EQ(Error(R"({"maskers": [{"type": "a"}, {"type": "b", "type": "c"}]})"),
            "maskers[1]: duplicate key \"type\"");
  EXPECT_EQ(Error(R"({"a": {"b": [[], [0, {"c": 1, "d": {}, "c": 1}]]}})"),
            "a.b[1][1]: duplicate key \"c\"");
  EXPECT_EQ(Error(R"({"k": 1, "\u006b": 2})"), "duplicate key \"k\"");
  // The same key in different objects is fine.
  SA_EXPECT_OK(ParseJson(R"({"a": {"a": [{"a": 1}, {"a": 1}]}})"));
}

TEST(ParseJson, SyntaxErrorsSayLineAndColumn) {
  EXPECT_THAT(Error("{\n  \"a\": 1,\n  \"b\" 2\n}"), StartsWith("line 3, column 7: syntax error"));
  EXPECT_THAT(Error(""), StartsWith("line 1, column 1: syntax error"));
  EXPECT_THAT(Error("{\"ü\": x}"), StartsWith("line 1, column 7: "));
  EXPECT_THAT(Error("[1, 2"), StartsWith("line 1, column 6: "));
  EXPECT_THAT(Error("[1] [2]"), StartsWith("line 1, column 5: "));
  for (const char* text :
       {"{\"a\": 1,}", "[1,]", "{a: 1}", "'a'", "01", "+1", "1.", ".5", "[1 2]", "\"\\x\"", "tru",
        "// c\n1", "/* c */ 1", "\"a\nb\"", "\"\\ud800\"", "{\"a\"}", "]", "}", "\"a"}) {
    EXPECT_THAT(Error(text), StartsWith("line ")) << text;
  }
}

TEST(ParseJson, NumbersThatNothingHoldsAreErrors) {
  for (const char* text : {"NaN", "nan", "Infinity", "-Infinity", "inf", "[NaN]"}) {
    EXPECT_THAT(Error(text), HasSubstr("syntax error")) << text;
  }
  EXPECT_EQ(Error("1e999"), "line 1, column 5: number overflow parsing '1e999'");
  EXPECT_EQ(Error("18446744073709551616"), "integer 18446744073709551616 does not fit in 64 bits");
  EXPECT_EQ(Error(R"({"a": [0, -9223372036854775809]})"),
            "a[1]: integer -9223372036854775809 does not fit in 64 bits");
}

TEST(ParseJson, DepthIsLimited) {
  SA_EXPECT_OK(ParseJson(Repeat("[", kMaxJsonDepth) + Repeat("]", kMaxJsonDepth)));
  EXPECT_THAT(Error(Repeat("[", kMaxJsonDepth + 1)), EndsWith(": nested deeper than 64 levels"));
  EXPECT_THAT(Error(Repeat("{\"a\":", 100000)),
              AllOf(StartsWith("a.a.a"), EndsWith(": nested deeper than 64 levels")));
}

TEST(ParseJson, IllFormedTextIsAnErrorWithAPrintableMessage) {
  for (const std::string& text :
       {std::string("\"\xff\""), std::string("\"\xc3\""), std::string("{\"\xed\xa0\x80\": 1}"),
        std::string("\0", 1), std::string("\"a\0b\"", 5), std::string("\xfe\xff")}) {
    for (char c : Error(text)) EXPECT_LT(static_cast<unsigned char>(c), 0x80);
  }
}

TEST(ParseJson, ManyMembersTakeLinearTime) {
  // Quadratic insertion would need 2 * 10^10 comparisons and run into the test's time limit.
  std::string text = "{";
  constexpr int kMembers = 200000;
  for (int i = 0; i < kMembers; ++i) absl::StrAppend(&text, i == 0 ? "" : ",", "\"k", i, "\":", i);
  text += "}";
  SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
  EXPECT_EQ(json.size(), kMembers);
  EXPECT_EQ(json["k77"], 77);
}

TEST(ReadJsonFile, NamesTheFile) {
  const std::string path = ::testing::TempDir() + "/json_test.json";
  std::FILE* file = std::fopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  std::fputs("{\"a\": 1, \"a\": 2}", file);
  std::fclose(file);
  EXPECT_THAT(ReadJsonFile(path),
              StatusIs(absl::StatusCode::kInvalidArgument, path + ": duplicate key \"a\""));
  EXPECT_THAT(
      ReadJsonFile(path + ".missing"),
      StatusIs(absl::StatusCode::kNotFound,
               AllOf(StartsWith(path + ".missing: cannot open"), HasSubstr("No such file"))));
  EXPECT_THAT(ReadJsonFile(::testing::TempDir()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("directory")));
}

TEST(DumpJson, IndentsAndNeverThrows) {
  EXPECT_EQ(DumpJson({{"a", 1}}, 2), "{\n  \"a\": 1\n}");
  EXPECT_EQ(DumpJson(std::string("a\xff")), "\"a\xEF\xBF\xBD\"");
}

TEST(JsonExcerpt, CutsBetweenCharacters) {
  EXPECT_EQ(JsonExcerpt("short"), "\"short\"");
  EXPECT_EQ(JsonExcerpt(std::string(78, 'x')), "\"" + std::string(78, 'x') + "\"");
  EXPECT_EQ(JsonExcerpt(std::string(79, 'x')), "\"" + std::string(76, 'x') + "...");
  EXPECT_EQ(JsonExcerpt(Repeat("ü", 50)), "\"" + Repeat("ü", 38) + "...");
}

TEST(JsonEquals, TellsKindsOfNumbersApartAndIgnoresOrder) {
  EXPECT_TRUE(JsonEquals(1, 1u));
  EXPECT_FALSE(JsonEquals(1, 1.0));
  EXPECT_FALSE(JsonEquals(1, true));
  EXPECT_FALSE(JsonEquals(1, "1"));
  EXPECT_FALSE(JsonEquals(0, nullptr));
  EXPECT_TRUE(JsonEquals({{"a", 1}, {"b", {1, 2.0}}}, {{"b", {1, 2.0}}, {"a", 1}}));
  EXPECT_FALSE(JsonEquals({{"a", 1}}, {{"a", 1.0}}));
  EXPECT_FALSE(JsonEquals({{"a", 1}}, {{"a", 1}, {"b", 1}}));
  EXPECT_FALSE(JsonEquals({{"a", 1}}, {{"b", 1}}));
  EXPECT_FALSE(JsonEquals(Json::array({1, 2}), Json::array({2, 1})));
  EXPECT_FALSE(JsonEquals(Json::array({1}), Json::array({1, 2})));
  EXPECT_FALSE(JsonEquals(Json::array(), Json::object()));
}

}  // namespace
}  // namespace sparse_attention
