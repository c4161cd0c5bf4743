#include "sparse_attention/key_index/layer_file.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <filesystem>
#include <string>

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
  EXPECT_TRUE(file.layers[0].at("query.0.weight").equal(at::full({2, 3}, 1.5)));
  EXPECT_TRUE(file.layers[11].at("gate").equal(at::full({4}, -2.0)));
  EXPECT_THAT(NoSuchLayer(path, 5, file.layers),
              StatusIs(kInvalid, HasSubstr("has no layer 5, its layers are 0, 11")));
}

TEST(LayerFile, TensorsAreCopiesThatOutliveTheFile) {
  const std::string path = PathOf("copied.safetensors");
  WriteLayerFile(path, {{"layers.0.gate", at::ones({1000})}}, {{"format", kFormat}});
  SA_ASSERT_OK_AND_ASSIGN(LayerFile file, ReadLayerFile(path, kFormat));
  std::filesystem::resize_file(path, 0);
  EXPECT_EQ(file.layers[0].at("gate").sum().item<double>(), 1000);
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
