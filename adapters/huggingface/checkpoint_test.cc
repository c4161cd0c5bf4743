#include "adapters/huggingface/checkpoint.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/safetensors/safetensors_writer.h"

namespace sparse_attention {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

// A folder with two shards: "a" and "b" in the first, "c" in the second.
class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (fs::path(::testing::TempDir()) / absl::StrCat("checkpoint_", getpid())).string();
    fs::remove_all(folder_);
    fs::create_directory(folder_);
    Write(kFirst, {"a", "b"});
    Write(kSecond, {"c"});
    WriteIndex(R"({"metadata": {"total_size": 24}, "weight_map": {"a": "model-1.safetensors",
                   "b": "model-1.safetensors", "c": "model-2.safetensors"}})");
  }
  void TearDown() override { fs::remove_all(folder_); }

  static constexpr char kFirst[] = "model-1.safetensors";
  static constexpr char kSecond[] = "model-2.safetensors";

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Index() const { return Path("model.safetensors.index.json"); }

  // Each tensor holds its own name eight times.
  void Write(const std::string& file, const std::vector<std::string>& names) {
    std::vector<std::string> data;
    std::vector<TensorView> views;
    for (const std::string& name : names) data.push_back(std::string(8, name[0]));
    for (size_t i = 0; i < names.size(); ++i) {
      views.push_back({.name = names[i],
                       .dtype = SafetensorsDtype::kBF16,
                       .shape = {2, 2},
                       .data = reinterpret_cast<const std::byte*>(data[i].data()),
                       .bytes = 8});
    }
    SA_ASSERT_OK(WriteSafetensors(Path(file), views));
  }
  void WriteText(const std::string& file, const std::string& text) {
    std::ofstream(Path(file), std::ios::binary | std::ios::trunc) << text;
  }
  void WriteIndex(const std::string& text) { WriteText("model.safetensors.index.json", text); }

  static std::string DataOf(const TensorView& view) {
    return std::string(reinterpret_cast<const char*>(view.data), view.bytes);
  }

  std::string folder_;
};

TEST_F(CheckpointTest, ReadsShards) {
  SA_ASSERT_OK_AND_ASSIGN(const auto checkpoint, Checkpoint::Open(folder_));
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(checkpoint->total_bytes(), 24);
  for (const std::string name : {"a", "b", "c"}) {
    EXPECT_TRUE(checkpoint->Has(name));
    SA_ASSERT_OK_AND_ASSIGN(const TensorView view, checkpoint->Get(name));
    EXPECT_EQ(DataOf(view), std::string(8, name[0]));
    EXPECT_THAT(view.shape, ElementsAre(2, 2));
  }
  EXPECT_EQ(checkpoint->FileOf("c"), Path(kSecond));
  EXPECT_EQ(checkpoint->FileOf("d"), folder_);
  EXPECT_FALSE(checkpoint->Has("d"));
  EXPECT_THAT(checkpoint->Get("d"), StatusIs(kNotFound, Index() + ": has no tensor \"d\""));
}

TEST_F(CheckpointTest, ReadsASingleFileAndPrefersIt) {
  Write("model.safetensors", {"x"});
  SA_ASSERT_OK_AND_ASSIGN(const auto checkpoint, Checkpoint::Open(folder_ + "/"));
  EXPECT_THAT(checkpoint->names(), ElementsAre("x"));
  EXPECT_EQ(checkpoint->total_bytes(), 8);
  EXPECT_EQ(DataOf(*checkpoint->Get("x")), "xxxxxxxx");
  EXPECT_THAT(checkpoint->Get("a"),
              StatusIs(kNotFound, Path("model.safetensors") + ": has no tensor \"a\""));
}

TEST_F(CheckpointTest, FollowsLinksAsDownloadCachesUseThem) {
  fs::rename(Path(kSecond), Path("blob"));
  fs::create_symlink("blob", Path(kSecond));
  SA_ASSERT_OK_AND_ASSIGN(const auto checkpoint, Checkpoint::Open(folder_));
  EXPECT_EQ(DataOf(*checkpoint->Get("c")), "cccccccc");
}

TEST_F(CheckpointTest, MissingThings) {
  EXPECT_THAT(Checkpoint::Open(Path("none")),
              StatusIs(kNotFound, Path("none") + ": no such model folder"));
  EXPECT_THAT(Checkpoint::Open(Path(kFirst)),
              StatusIs(kNotFound, Path(kFirst) + ": no such model folder"));
  fs::remove(Path(kSecond));
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(kNotFound, Index() + ": weight_map[\"c\"] is in " + Path(kSecond) +
                                      ", which does not exist"));
  fs::remove(Index());
  EXPECT_THAT(
      Checkpoint::Open(folder_),
      StatusIs(kNotFound,
               folder_ + ": has neither model.safetensors nor model.safetensors.index.json"));
}

TEST_F(CheckpointTest, IndexAndShardsMustAgree) {
  WriteIndex(R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors",
                                "c": "model-2.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(kInvalid, Path(kFirst) + ": tensor \"b\" should be in " + Path(kSecond) +
                                     ", as " + Index() + " says"));
  WriteIndex(R"({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(kInvalid, Path(kFirst) + ": tensor \"b\" is not in " + Index()));
  WriteIndex(R"({"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors",
                                "c": "model-2.safetensors", "d": "model-2.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(kInvalid, Path(kSecond) + ": has no tensor \"d\", which " + Index() +
                                     " says is there"));
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsRefused) {
  Write(kSecond, {"b", "c"});
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(kInvalid, Path(kSecond) + ": tensor \"b\" is also in " + Path(kFirst)));
}

TEST_F(CheckpointTest, AShardMustBeAFileOfTheSameFolder) {
  for (const char* shard : {"\"../model-1.safetensors\"", "\"sub/model-1.safetensors\"",
                            "\"/etc/passwd\"", "\"a\\\\b\"", "\"..\"", "\".\"", "\"\"", "\"x..y\"",
                            "\"a\\u0000b\"", "1", "null", "[\"model-1.safetensors\"]"}) {
    WriteIndex(absl::StrCat(R"({"weight_map": {"a": )", shard, "}}"));
    EXPECT_THAT(Checkpoint::Open(folder_),
                StatusIs(kInvalid, StartsWith(Index() + ": weight_map[\"a\"] must be the name of a "
                                                        "file in the same folder, got ")))
        << shard;
  }
}

TEST_F(CheckpointTest, BrokenIndex) {
  for (const char* text :
       {"", "{", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": null})",
        R"({"weight_map": {}, "weight_map": {}})", R"({"weight_map": {"a": "x", "a": "y"}})"}) {
    WriteIndex(text);
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(kInvalid, StartsWith(Index() + ": "))) << text;
  }
  WriteIndex(R"({"weight_map": {}})");
  SA_ASSERT_OK_AND_ASSIGN(const auto empty, Checkpoint::Open(folder_));
  EXPECT_THAT(empty->names(), ElementsAre());
}

TEST_F(CheckpointTest, BrokenShardsNameFileAndTensor) {
  const auto header = [](const std::string& json) {
    std::string length(8, '\0');
    length[0] = static_cast<char>(json.size());
    return length + json;
  };
  struct Broken {
    std::string content, message;
  };
  const std::string tensor = R"({"c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  for (
      const Broken& broken : {
          Broken{header(tensor) + "123", "tensor \"c\": data_offsets [0, 4] lie beyond"},
          Broken{header(tensor) + "12345", "tensors end at byte 4"},
          Broken{header(R"({"c":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})") + "1234",
                 "tensor \"c\": unknown dtype \"F31\""},
          Broken{
              header(
                  R"({"c":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,0]}})"),
              "tensor \"c\": shape [4611686018427387904, 16] of F32 overflows 64 bits"},
          Broken{header(R"({"c":1,"c":1})"), "tensor \"c\": must be an object"},
          Broken{std::string(8, '\xff') + "{}", "header length must be at most 100000000"},
          Broken{header(tensor).substr(0, 20), "truncated"},
          Broken{"", "at least the 8 bytes"},
      }) {
    WriteText(kSecond, broken.content);
    EXPECT_THAT(
        Checkpoint::Open(folder_),
        StatusIs(kInvalid, AllOf(StartsWith(Path(kSecond) + ": "), HasSubstr(broken.message))));
  }
}

}  // namespace
}  // namespace sparse_attention
