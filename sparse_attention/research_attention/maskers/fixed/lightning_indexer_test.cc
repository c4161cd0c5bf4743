#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer.h"

#include <ATen/ops/zeros.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/indexer_keys.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

absl::StatusOr<std::unique_ptr<Masker>> Make(const std::string& path) {
  return LightningIndexerDescriptor().create({{"heavy_size", 6}, {"weight_file", path}},
                                             MaskerOptions());
}

TEST(LightningIndexer, AllHeadsKeepTheKeysWithTheHighestScores) {
  const std::string path = PathOf("indexer.safetensors");
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = 40});
  WriteIndexerFile(path, {{.layer = in.layer}});
  SA_ASSERT_OK_AND_ASSIGN(const auto masker, Make(path));
  const auto mask = masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
  SA_ASSERT_OK(mask.status());
  SA_ASSERT_OK_AND_ASSIGN(const auto weights, IndexerWeights::Load(path));
  SA_ASSERT_OK_AND_ASSIGN(const IndexerLayerWeights* arrays, weights->Layer(in.layer, 4, 2, 8));
  const IndexerLayer layer = {TensorOf(arrays->query), TensorOf(arrays->key),
                              TensorOf(arrays->gate)};
  const at::Tensor best =
      std::get<1>(IndexerKeys(in.k, layer).Scores(in.q).topk(6, -1)).unsqueeze(1);
  at::Tensor expected = at::zeros({1, 1, 3, 40}, at::kBool);
  expected.scatter_(3, best, true);
  EXPECT_TRUE(mask->ToActive().eq(expected).all().item<bool>());
  EXPECT_EQ(masker->IndexBytes(in), 40 * 5 * 4);
}

TEST(LightningIndexer, WeightsOfOtherShapesAreRefused) {
  const std::string path = PathOf("indexer.safetensors");
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = 40});
  WriteIndexerFile(path, {{.layer = in.layer, .kv_heads = 4}});
  SA_ASSERT_OK_AND_ASSIGN(const auto masker, Make(path));
  EXPECT_THAT(masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("lightning_indexer: " + path + ": layer")));
  EXPECT_THAT(Make(PathOf("none.safetensors")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("lightning_indexer.weight_file: ")));
}

}  // namespace
}  // namespace sparse_attention
