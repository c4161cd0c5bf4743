#include "sparse_attention/key_index/channel_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string InTempDir(const std::string& name) { return ::testing::TempDir() + "/" + name; }

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// A file with this text.
std::string FileWith(absl::string_view text, const std::string& name = "channels.json") {
  const std::string path = InTempDir(name);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

absl::StatusOr<ChannelFile> Parse(absl::string_view text) {
  SA_ASSIGN_OR_RETURN(const Json json, ParseJson(text));
  return ChannelFile::FromJson(json);
}

TEST(ChannelFile, GivesTheListsOfALayerAndSelection) {
  SA_ASSERT_OK_AND_ASSIGN(
      const ChannelFile file,
      ReadChannelFile(FileWith(R"({"model.layers.0.self_attn.qk_proj": [[2, 0, 1], [0, 1, 2]],
                                   "model.layers.10.self_attn.k_proj": [[1, 0]]})")));
  EXPECT_THAT(file.Layer(0, ChannelSelection::kQueryKey),
              IsOkAndHolds(ElementsAre(ElementsAre(2, 0, 1), ElementsAre(0, 1, 2))));
  EXPECT_THAT(file.Layer(10, ChannelSelection::kKey), IsOkAndHolds(ElementsAre(ElementsAre(1, 0))));
  EXPECT_THAT(file.Layer(0, ChannelSelection::kQuery),
              StatusIs(kInvalid, "No sorted channels found for model.layers.0.self_attn.q_proj"));
  EXPECT_THAT(file.Layer(1, ChannelSelection::kQueryKey),
              StatusIs(kInvalid, "No sorted channels found for model.layers.1.self_attn.qk_proj"));
}

TEST(ChannelFile, WhatIsWrittenIsReadBack) {
  ChannelFile file;
  SA_ASSERT_OK(file.Set(0, ChannelSelection::kQuery, {{1, 0}, {0, 1}}));
  SA_ASSERT_OK(file.Set(0, ChannelSelection::kKey, {{0, 1}, {0, 1}}));
  SA_ASSERT_OK(file.Set(0, ChannelSelection::kQuery, {{0, 1}, {1, 0}}));  // replaces
  EXPECT_EQ(file.ToText(),
            "{\n\"model.layers.0.self_attn.q_proj\": [[0,1],[1,0]],\n"
            "\"model.layers.0.self_attn.k_proj\": [[0,1],[0,1]]\n}\n");
  const std::string path = InTempDir("written.json");
  SA_ASSERT_OK(WriteChannelFile(path, file));
  EXPECT_EQ(ReadFile(path), file.ToText());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  SA_ASSERT_OK_AND_ASSIGN(const ChannelFile read, ReadChannelFile(path));
  EXPECT_EQ(read.ToText(), file.ToText());
  EXPECT_EQ(Parse(ChannelFile().ToText())->ToText(), "{\n}\n");
}

TEST(ChannelFile, SaysWhatIsMalformed) {
  const auto error = [](absl::string_view text) { return Parse(text).status(); };
  EXPECT_THAT(error("[1]"), StatusIs(kInvalid, "Channel file must contain a JSON object, got [1]"));
  EXPECT_THAT(error(R"({"a": 4})"), StatusIs(kInvalid, "Channel data for a must be a list, got 4"));
  EXPECT_THAT(error(R"({"a": {"0": [1]}})"),
              StatusIs(kInvalid, R"(Channel data for a must be a list, got {"0":[1]})"));
  EXPECT_THAT(error(R"({"a": [[0], null]})"),
              StatusIs(kInvalid, "Channel data for a[1] must be a list, got null"));
  for (const char* entry : {"1.0", "\"1\"", "true", "null", "[1]"}) {
    EXPECT_THAT(
        error(absl::StrCat(R"({"a": [[0, 1], [0, )", entry, "]]}")),
        StatusIs(kInvalid, absl::StrCat("Channel indices for a[1] must be integers, got ", entry)));
  }
}

TEST(ChannelFile, EveryListIsAPermutation) {
  const auto error = [](absl::string_view lists) {
    return Parse(absl::StrCat(R"({"a": )", lists, "}")).status();
  };
  constexpr char kRule[] = "Channel indices for a[1] must be distinct integers in [0, 3), got ";
  EXPECT_THAT(error("[[0, 1, 2], [0, 1, 3]]"), StatusIs(kInvalid, absl::StrCat(kRule, "3")));
  EXPECT_THAT(error("[[0, 1, 2], [0, -1, 2]]"), StatusIs(kInvalid, absl::StrCat(kRule, "-1")));
  EXPECT_THAT(error("[[0, 1, 2], [2, 1, 2]]"), StatusIs(kInvalid, absl::StrCat(kRule, "2 twice")));
  EXPECT_THAT(error("[[0, 1, 2], [0, 1, 18446744073709551615]]"),
              StatusIs(kInvalid, StartsWith(kRule)));
  EXPECT_THAT(
      error("[[0, 1, 2], [0, 1]]"),
      StatusIs(kInvalid, "Channel data for a[1] must be as long as that of head 0, 3, got 2"));
  ChannelFile file;
  EXPECT_THAT(file.Set(7, ChannelSelection::kQueryKey, {{0, 2}}),
              StatusIs(kInvalid,
                       "Channel indices for model.layers.7.self_attn.qk_proj[0] must be "
                       "distinct integers in [0, 2), got 2"));
  EXPECT_EQ(file.ToText(), "{\n}\n");
}

TEST(ChannelFile, EmptyListsAreNamedWhereTheyAreAskedFor) {
  for (const char* lists : {"[]", "[[]]", "[[], []]"}) {
    SA_ASSERT_OK_AND_ASSIGN(
        const ChannelFile file,
        Parse(absl::StrCat(R"({"model.layers.0.self_attn.q_proj": )", lists, "}")));
    EXPECT_THAT(file.Layer(0, ChannelSelection::kQuery),
                StatusIs(kInvalid, "Empty channel data for model.layers.0.self_attn.q_proj"));
  }
}

TEST(ReadChannelFile, SaysWhatIsWrongWithTheFile) {
  const std::string missing = InTempDir("missing.json");
  EXPECT_THAT(ReadChannelFile(missing),
              StatusIs(kInvalid, absl::StrCat("Channel file not found: ", missing)));
  const std::string broken = FileWith("{\n  \"a\": [[0, 1]\n", "broken.json");
  EXPECT_THAT(ReadChannelFile(broken),
              StatusIs(kInvalid, AllOf(StartsWith(absl::StrCat(
                                     "Invalid JSON in channel file: ", broken, ": line 3")))));
  EXPECT_THAT(ReadChannelFile(FileWith("")),
              StatusIs(kInvalid, StartsWith("Invalid JSON in channel file: ")));
  EXPECT_THAT(ReadChannelFile(FileWith(R"({"a": [], "a": []})")),
              StatusIs(kInvalid, HasSubstr("duplicate key")));
  const std::string list = FileWith("[]");
  EXPECT_THAT(
      ReadChannelFile(list),
      StatusIs(kInvalid, absl::StrCat(list, ": Channel file must contain a JSON object, got []")));
}

TEST(ReadChannelFile, RefusesWhatHasNoEnd) {
  const std::string huge = InTempDir("huge.json");
  std::ofstream(huge).close();
  std::filesystem::resize_file(huge, (int64_t{64} << 20) + 1);
  for (const std::string& path : {std::string("/dev/zero"), ::testing::TempDir(), huge}) {
    EXPECT_THAT(
        ReadChannelFile(path),
        StatusIs(kInvalid,
                 absl::StrCat("Channel file must be a regular file of at most 64 MiB: ", path)));
  }
  std::filesystem::remove(huge);
}

TEST(WriteChannelFile, NamesAPathThatCannotBeWritten) {
  const std::string path = InTempDir("no/such/folder.json");
  EXPECT_THAT(WriteChannelFile(path, ChannelFile()),
              StatusIs(kInvalid, StartsWith(absl::StrCat(path, ": cannot write: "))));
}

}  // namespace
}  // namespace sparse_attention
