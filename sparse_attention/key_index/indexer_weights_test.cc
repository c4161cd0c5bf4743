#include "sparse_attention/key_index/indexer_weights.h"

#include <functional>

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

TEST(IndexerWeights, ReadsAndChecks) {
  const std::string path = PathOf("indexer.safetensors");
  WriteIndexerFile(path, {{.layer = 2}});
  SA_ASSERT_OK_AND_ASSIGN(const auto weights, IndexerWeights::Load(path));
  SA_ASSERT_OK_AND_ASSIGN(const IndexerLayerWeights* layer, weights->Layer(2, 4, 2, 8));
  EXPECT_EQ(layer->width(), 5);
  EXPECT_EQ(layer->heads(), 3);
  EXPECT_THAT(weights->Layer(0, 4, 2, 8), StatusIs(kInvalid, HasSubstr("no layer 0")));
  EXPECT_THAT(weights->Layer(2, 8, 2, 8),
              StatusIs(kInvalid, HasSubstr("layer 2 is for 32 query and 16 key channels")));
}

TEST(IndexerWeights, BrokenFilesNameFileAndTensor) {
  const std::string path = PathOf("broken.safetensors");
  RandomTensors random(4);
  const auto load = [&](const std::function<void(LayerTensors&)>& change) {
    LayerTensors tensors = {{"layers.0.query.weight", random.Normal({3, 32, 5})},
                            {"layers.0.key.weight", random.Normal({16, 5})},
                            {"layers.0.gate.weight", random.Normal({32, 3})}};
    change(tensors);
    WriteLayerFile(path, tensors, {{"format", "sah.lightning_indexer.v1"}});
    return IndexerWeights::Load(path).status();
  };
  const auto set = [&](const char* name, const at::Tensor& value) {
    return load([&](LayerTensors& t) { t[name] = value; });
  };
  const auto is = [&](const std::string& text) {
    return StatusIs(kInvalid, AllOf(HasSubstr(path), HasSubstr(text)));
  };
  SA_EXPECT_OK(load([](LayerTensors&) {}));
  EXPECT_THAT(load([](LayerTensors& t) { t.clear(); }), is("holds no layer"));
  EXPECT_THAT(load([](LayerTensors& t) { t.erase("layers.0.gate.weight"); }),
              is("layers.0.gate.weight must be there"));
  EXPECT_THAT(set("layers.0.query.weight", random.Normal({32, 5})),
              is("layers.0.query.weight must be [indexer heads, query heads * dim, width]"));
  EXPECT_THAT(set("layers.0.key.weight", random.Normal({16, 6})),
              is("layers.0.key.weight must be [KV heads * dim, 5]"));
  EXPECT_THAT(set("layers.0.gate.weight", random.Normal({3, 32})),
              is("layers.0.gate.weight must be [32, 3]"));
  EXPECT_THAT(set("layers.0.gate.weight", random.Normal({32, 4})),
              is("layers.0.gate.weight must be [32, 3], got float32 [32, 4]"));
  EXPECT_THAT(set("layers.0.bias", random.Normal({3})), is("layers.0.bias must be query.weight"));
}

}  // namespace
}  // namespace sparse_attention
