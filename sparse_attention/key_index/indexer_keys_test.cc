#include "sparse_attention/key_index/indexer_keys.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/append_testing.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

IndexerLayer RandomLayer() {
  RandomTensors random(1);
  return {random.Normal({3, 4 * 8, 5}), random.Normal({2 * 8, 5}), random.Normal({4 * 8, 3})};
}

// The formula, sum by sum, in double.
TEST(IndexerKeys, ScoresByTheFormula) {
  RandomTensors random(2);
  const at::Tensor q = random.Normal({2, 4, 3, 8}), k = random.Normal({2, 2, 7, 8});
  const IndexerLayer layer = RandomLayer();
  const at::Tensor scores = IndexerKeys(k, layer).Scores(q);
  ASSERT_EQ(scores.sizes(), at::IntArrayRef({2, 3, 7}));
  const auto at = [](const at::Tensor& x, std::initializer_list<int64_t> place) {
    at::Tensor y = x;
    for (int64_t i : place) y = y[i];
    return y.item<double>();
  };
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t s = 0; s < 7; ++s) {
      double expected = 0;
      for (int64_t j = 0; j < 3; ++j) {
        double gate = 0, product = 0;
        for (int64_t c = 0; c < 32; ++c) {
          gate += at(q, {1, c / 8, t, c % 8}) * at(layer.gate, {c, j});
        }
        for (int64_t w = 0; w < 5; ++w) {
          double query = 0, key = 0;
          for (int64_t c = 0; c < 32; ++c) {
            query += at(q, {1, c / 8, t, c % 8}) * at(layer.query, {j, c, w});
          }
          for (int64_t c = 0; c < 16; ++c)
            key += at(k, {1, c / 8, s, c % 8}) * at(layer.key, {c, w});
          product += query * key;
        }
        expected += gate * std::max(0., product);
      }
      EXPECT_NEAR(at(scores, {1, t, s}), expected, 1e-4 * (1 + std::abs(expected)));
    }
  }
}

TEST(IndexerKeys, AppendsEqualAFreshBuild) {
  const IndexerLayer layer = RandomLayer();
  const at::Tensor q = RandomTensors(3).Normal({2, 4, 2, 8});
  ExpectAppendsEqualAFreshBuild(
      [&](const at::Tensor& keys) { return IndexerKeys(keys, layer); },
      [](IndexerKeys& index, const at::Tensor& keys, int64_t n) { index.Extend(keys, n); },
      [&](const IndexerKeys& index) { return std::vector{index.keys()}; });
}

TEST(IndexerWeights, ReadsAndChecks) {
  const std::string path = PathOf("indexer.safetensors");
  WriteIndexerFile(path, {{.layer = 2}});
  SA_ASSERT_OK_AND_ASSIGN(const auto weights, IndexerWeights::Load(path));
  SA_ASSERT_OK_AND_ASSIGN(const IndexerLayer* layer, weights->Layer(2, 4, 2, 8));
  EXPECT_EQ(layer->width(), 5);
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
