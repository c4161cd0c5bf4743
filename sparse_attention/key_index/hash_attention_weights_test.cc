#include "sparse_attention/key_index/hash_attention_weights.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

TEST(HashAttentionWeights, ReadsEveryLayer) {
  const std::string path = PathOf("hash.safetensors");
  WriteHashAttentionFile(path, {{.layer = 0}, {.layer = 7, .key_heads = 4, .bits = 5}});
  SA_ASSERT_OK_AND_ASSIGN(const auto weights, HashAttentionWeights::Load(path));
  EXPECT_EQ(weights->activation(), Activation::kTanh);
  SA_ASSERT_OK_AND_ASSIGN(const HashAttentionLayer* first, weights->Layer(0, 4, 2, 8));
  EXPECT_EQ(first->query.heads(), 4);
  EXPECT_EQ(first->key.heads(), 2);
  EXPECT_EQ(first->query.bits(), 40);
  EXPECT_EQ(first->key.linears.size(), 2u);
  SA_ASSERT_OK_AND_ASSIGN(const HashAttentionLayer* last, weights->Layer(7, 4, 2, 8));
  EXPECT_EQ(last->key.heads(), 4);
}

TEST(HashAttentionWeights, OtherShapesThanTheInputsAreNamed) {
  const std::string path = PathOf("hash.safetensors");
  WriteHashAttentionFile(path, {{.layer = 0}, {.layer = 3}});
  SA_ASSERT_OK_AND_ASSIGN(const auto weights, HashAttentionWeights::Load(path));
  EXPECT_THAT(weights->Layer(1, 4, 2, 8),
              StatusIs(kInvalid, AllOf(HasSubstr(path), HasSubstr("no layer 1"),
                                       HasSubstr("layers are 0, 3"))));
  EXPECT_THAT(weights->Layer(0, 8, 2, 8),
              StatusIs(kInvalid, HasSubstr("layer 0 is for 4 query heads, 2 key heads and dim 8, "
                                           "the inputs have 8 query heads, 2 KV heads and dim 8")));
  EXPECT_THAT(weights->Layer(0, 4, 1, 8), StatusIs(kInvalid));
  EXPECT_THAT(weights->Layer(0, 4, 2, 64), StatusIs(kInvalid));
}

TEST(HashAttentionWeights, BrokenFilesNameFileAndTensor) {
  const std::string path = PathOf("broken.safetensors");
  const std::map<std::string, std::string> metadata = {{"format", "sah.hash_attention.v1"},
                                                       {"activation", "silu"}};
  RandomTensors random(1);
  const LayerTensors good = {{"layers.0.query.0.weight", random.Normal({4, 8, 5})},
                             {"layers.0.query.0.bias", random.Normal({4, 5})},
                             {"layers.0.key.0.weight", random.Normal({2, 8, 5})},
                             {"layers.0.key.0.bias", random.Normal({2, 5})}};
  WriteLayerFile(path, good, metadata);
  SA_EXPECT_OK(HashAttentionWeights::Load(path));

  const auto broken = [&](const std::function<void(LayerTensors&)>& change) {
    LayerTensors tensors = good;
    change(tensors);
    WriteLayerFile(path, tensors, metadata);
    return HashAttentionWeights::Load(path).status();
  };
  const auto set = [&](const char* name, const at::Tensor& value) {
    return broken([&](LayerTensors& t) { t[name] = value; });
  };
  const auto is = [&](const std::string& text) {
    return StatusIs(kInvalid, AllOf(HasSubstr(path), HasSubstr(text)));
  };
  EXPECT_THAT(broken([](LayerTensors& t) { t.clear(); }), is("holds no layer"));
  EXPECT_THAT(broken([](LayerTensors& t) { t.erase("layers.0.key.0.weight"); }),
              is("layers.0.key.0.weight must be there"));
  EXPECT_THAT(broken([](LayerTensors& t) { t.erase("layers.0.key.0.bias"); }),
              is("layers.0.key.0.bias must be there"));
  EXPECT_THAT(set("layers.0.query.0.weight", random.Normal({8, 5})),
              is("layers.0.query.0.weight must be [heads, in, out], got float32 [8, 5]"));
  EXPECT_THAT(set("layers.0.query.0.bias", random.Normal({4, 6})),
              is("layers.0.query.0.bias must be [4, 5]"));
  EXPECT_THAT(set("layers.0.query.2.weight", random.Normal({4, 5, 5})),
              is("layers.0.query.2.weight must continue a chain"));
  EXPECT_THAT(set("layers.x.query.0.weight", random.Normal({4, 5, 5})),
              is("tensor layers.x.query.0.weight must be named layers.{layer}.{name}"));
  EXPECT_THAT(set("layers.-1.query.0.weight", random.Normal({4, 5, 5})),
              is("tensor layers.-1.query.0.weight must be named layers.{layer}.{name}"));
  EXPECT_THAT(set("other", random.Normal({1})), is("tensor other must be named"));
  EXPECT_THAT(broken([&](LayerTensors& t) {
                t["layers.0.key.0.weight"] = random.Normal({2, 8, 6});
                t["layers.0.key.0.bias"] = random.Normal({2, 6});
              }),
              is("layers.0.key must map 8 channels to 5 bits as query does, got 8 and 6"));
  EXPECT_THAT(broken([&](LayerTensors& t) {
                t["layers.0.query.1.weight"] = random.Normal({4, 6, 5});
                t["layers.0.query.1.bias"] = random.Normal({4, 5});
              }),
              is("layers.0.query.1.weight must be [4, 5, out] behind the map before it"));
  at::Tensor bad = random.Normal({4, 8, 5});
  bad[1][2][3].fill_(NAN);
  EXPECT_THAT(set("layers.0.query.0.weight", bad),
              is("tensor layers.0.query.0.weight: holds values that are not finite"));
}

TEST(HashAttentionWeights, OtherFilesAreRefused) {
  EXPECT_THAT(HashAttentionWeights::Load(PathOf("none.safetensors")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.safetensors")));
  EXPECT_THAT(HashAttentionWeights::Load("{model}/hash.safetensors"),
              StatusIs(kInvalid, HasSubstr("stands for the folder of the model")));
  const std::string path = PathOf("other.safetensors");
  std::ofstream(path) << "not a file of tensors";
  EXPECT_THAT(HashAttentionWeights::Load(path), StatusIs(kInvalid, HasSubstr(path)));
  WriteIndexerFile(path, {{}});
  EXPECT_THAT(HashAttentionWeights::Load(path),
              StatusIs(kInvalid, HasSubstr("metadata \"format\" must be \"sah.hash_attention.v1\", "
                                           "got \"sah.lightning_indexer.v1\"")));
  WriteLayerFile(path, {}, {{"format", "sah.hash_attention.v1"}, {"activation", "selu"}});
  EXPECT_THAT(HashAttentionWeights::Load(path),
              StatusIs(kInvalid, HasSubstr("'relu', 'silu', 'gelu' or 'tanh', got \"selu\"")));
}

}  // namespace
}  // namespace sparse_attention
