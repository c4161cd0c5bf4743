#include "adapters/huggingface/checkpoint_json.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::IsNull;
using ::testing::NotNull;
using ::testing::Optional;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ParseJsonObject, IsStrict) {
  SA_EXPECT_OK(ParseJsonObject(R"( {"a": {"b": [1, {"a": 2}]}, "b": {"a": 1}} )"));
  EXPECT_THAT(ParseJsonObject(R"({"a": {"b": 1, "c": 2, "b": 3}})"),
              StatusIs(kInvalid, "duplicate key \"b\""));
  EXPECT_THAT(ParseJsonObject("{}x"), StatusIs(kInvalid, StartsWith("not valid JSON at byte 3")));
  EXPECT_THAT(ParseJsonObject(absl::string_view("{}\0", 3)), StatusIs(kInvalid));
  EXPECT_THAT(ParseJsonObject("3"), StatusIs(kInvalid, "must be a JSON object, got 3"));
  EXPECT_THAT(ParseJsonObject("{\"a\": \"\xff\"}"), StatusIs(kInvalid));
}

TEST(ParseJsonObject, BoundsNesting) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  SA_EXPECT_OK(ParseJsonObject(nested(64)));
  EXPECT_THAT(ParseJsonObject(nested(65)), StatusIs(kInvalid, "nested deeper than 64"));
  EXPECT_THAT(ParseJsonObject("{\"a\":" + std::string(1'000'000, '[')),
              StatusIs(kInvalid, "nested deeper than 64"));
}

TEST(ReadBoundedFile, BoundsTheSize) {
  const std::string path =
      (std::filesystem::path(::testing::TempDir()) / "checkpoint_json_test").string();
  std::ofstream(path) << "12345";
  EXPECT_THAT(ReadBoundedFile(path, 5), IsOkAndHolds("12345"));
  EXPECT_THAT(ReadBoundedFile(path, 4),
              StatusIs(kInvalid, path + ": must have at most 4 bytes, got 5"));
}

TEST(JsonFields, ReadsTypedFieldsAndNamesThemWithTheirPrefix) {
  const nlohmann::json object =
      nlohmann::json::parse(R"({"i": 3, "f": 2.5, "b": true, "s": "x", "n": null, "l": [1, 2]})");
  const JsonFields fields(object, "outer.");
  EXPECT_THAT(fields.Int("i", 1, 3), IsOkAndHolds(Optional(3)));
  EXPECT_THAT(fields.Number("f", 0), IsOkAndHolds(Optional(2.5)));
  EXPECT_THAT(fields.Number("i", 0), IsOkAndHolds(Optional(3.0)));
  EXPECT_THAT(fields.Bool("b"), IsOkAndHolds(Optional(true)));
  EXPECT_THAT(fields.String("s"), IsOkAndHolds(Optional(std::string("x"))));
  EXPECT_THAT(fields.IntOrList("l", 0, 9), IsOkAndHolds(Optional(ElementsAre(1, 2))));
  EXPECT_THAT(fields.IntOrList("i", 0, 9), IsOkAndHolds(Optional(ElementsAre(3))));
  EXPECT_THAT(fields.Int("n", 0, 9), IsOkAndHolds(std::nullopt));
  EXPECT_THAT(fields.Int("absent", 0, 9), IsOkAndHolds(std::nullopt));
  EXPECT_TRUE(fields.Mentions("n"));
  EXPECT_FALSE(fields.Mentions("absent"));
  EXPECT_THAT(fields.Find("n"), IsNull());
  EXPECT_THAT(fields.Find("i"), NotNull());
  EXPECT_THAT(fields.Int("i", 1, 2), StatusIs(kInvalid, "outer.i must be <= 2, got 3"));
  EXPECT_THAT(fields.Int("i", 4, 9), StatusIs(kInvalid, "outer.i must be >= 4, got 3"));
  EXPECT_THAT(fields.Number("f", 0, 2), StatusIs(kInvalid, "outer.f must be <= 2, got 2.5"));
  EXPECT_THAT(fields.Missing("x"), StatusIs(kInvalid, "outer.x is missing"));
}

TEST(JsonExcerpt, IsShort) {
  EXPECT_EQ(JsonExcerpt("a\xff"), "\"a\\ufffd\"");
  EXPECT_EQ(JsonExcerpt(std::string(1000, 'a')).size(), 83);
}

}  // namespace
}  // namespace sparse_attention
