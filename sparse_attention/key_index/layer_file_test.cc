#include "sparse_attention/key_index/layer_file.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kFormat[] = "test.format.v1";

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

TEST(LayerFile, GivesLayersByNumberAndTheRestOfTheName) {
  const std::string path = PathOf("layers.safetensors");
  WriteLayerFile(
      path,
      {{"layers.0.query.0.weight", at::full({2, 3}, 1.5)}, {"layers.11.gate", at::full({4}, -2.0)}},
      {{"format", kFormat}, {"activation", "silu"}});
  SA_ASSERT_OK_AND_ASSIGN(LayerFile file, ReadLayerFile(path, kFormat));
  EXPECT_EQ(file.metadata["activation"], "silu");
  ASSERT_EQ(file.layers.size(), 2);
  EXPECT_EQ(file.layers[0].at("query.0.weight").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.layers[0].at("query.0.weight").values, std::vector<float>(6, 1.5f));
  EXPECT_EQ(file.layers[11].at("gate").values, std::vector<float>(4, -2.0f));
  EXPECT_THAT(NoSuchLayer(path, 5, file.layers),
              StatusIs(kInvalid, HasSubstr("has no layer 5, its layers are 0, 11")));
}

TEST(LayerFile, ArraysOutliveTheFile) {
  const std::string path = PathOf("copied.safetensors");
  WriteLayerFile(path, {{"layers.0.gate", at::ones({1000})}}, {{"format", kFormat}});
  SA_ASSERT_OK_AND_ASSIGN(LayerFile file, ReadLayerFile(path, kFormat));
  std::filesystem::resize_file(path, 0);
  EXPECT_EQ(file.layers[0].at("gate").values, std::vector<float>(1000, 1.0f));
}

TEST(LayerFile, ShortTypesAreWidenedWherever) {
  // Bytes by hand, with an odd header length: elements are not aligned.
  const std::string path = PathOf("short.safetensors");
  std::string header = R"({"__metadata__":{"format":"test.format.v1"},)"
                       R"("layers.0.a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                       R"("layers.0.b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},)"
                       R"("layers.0.c":{"dtype":"I16","shape":[0],"data_offsets":[8,8]}})";
  const auto write = [&](const std::string& text) {
    const uint64_t length = text.size();
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << text;
    for (uint16_t bits : {0x3E00, 0xC000, 0x4049, 0x8000}) {  // 1.5, -2; 3.140625, -0
      out.write(reinterpret_cast<const char*>(&bits), 2);
    }
  };
  write(header);
  EXPECT_THAT(ReadLayerFile(path, kFormat),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("tensor layers.0.c: weights must be F32, F16 or BF16, got I16")));
  header.replace(header.find("I16"), 3, "F32");
  if (header.size() % 2 == 0) header += ' ';
  write(header);
  SA_ASSERT_OK_AND_ASSIGN(LayerFile file, ReadLayerFile(path, kFormat));
  EXPECT_EQ(file.layers[0].at("a").values, (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(file.layers[0].at("b").values, (std::vector<float>{3.140625f, -0.0f}));
  EXPECT_EQ(file.layers[0].at("b").shape, (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(file.layers[0].at("c").empty());
}

TEST(LayerFile, WhatIsWrongIsNamed) {
  const std::string path = PathOf("wrong.safetensors");
  const auto read = [&](const LayerTensors& tensors, const std::string& format) {
    WriteLayerFile(path, tensors, {{"format", format}});
    return ReadLayerFile(path, kFormat).status();
  };
  const auto is = [&](const std::string& text) {
    return StatusIs(kInvalid, AllOf(HasSubstr(path), HasSubstr(text)));
  };
  SA_EXPECT_OK(read({}, kFormat));
  EXPECT_THAT(read({}, "other"), is(R"(must be "test.format.v1", got "other")"));
  for (const char* name :
       {"gate", "layers.gate", "layers.x.gate", "layers.-1.gate", "heads.0.gate"}) {
    EXPECT_THAT(read({{name, at::ones({1})}}, kFormat),
                is(std::string("tensor ") + name + " must be named layers.{layer}.{name}"));
  }
  for (double value : {std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(read({{"layers.0.gate", at::full({3}, value)}}, kFormat),
                is("tensor layers.0.gate: holds values that are not finite"));
  }
  EXPECT_THAT(ReadLayerFile(PathOf("none"), kFormat), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadLayerFile("{model}/x", kFormat), StatusIs(kInvalid, HasSubstr("{model}")));
  EXPECT_EQ(LayerFileError("f", 3, "gate", "must be [2]", "[4]").message(),
            "f: layers.3.gate must be [2], got [4]");
}

}  // namespace
}  // namespace sparse_attention
