#include "sparse_attention/key_index/indexer_keys.h"

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/append_testing.h"

namespace sparse_attention {
namespace {

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

}  // namespace
}  // namespace sparse_attention
