#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

Json Config(int64_t heavy, const std::string& path) {
  return {{"heavy_size", heavy}, {"hat_weight_file", path}};
}

std::unique_ptr<Masker> Make(const Json& json) {
  auto masker = HashAttentionTopKDescriptor().create(json, MaskerOptions());
  SA_CHECK_OK(masker.status());
  return *std::move(masker);
}

// One head, two channels: bit 0 is the sign of the first, bit 1 that of the second.
std::string SignsOfChannels() {
  const std::string path = PathOf("signs.safetensors");
  const at::Tensor identity = at::tensor({1.f, 0.f, 0.f, 1.f}).view({1, 2, 2});
  WriteLayerFile(path,
                 {{"layers.0.query.0.weight", identity},
                  {"layers.0.query.0.bias", at::zeros({1, 2})},
                  {"layers.0.key.0.weight", identity},
                  {"layers.0.key.0.bias", at::zeros({1, 2})}},
                 {{"format", "sah.hash_attention.v1"}, {"activation", "relu"}});
  return path;
}

AttentionInputs TwoChannels() {
  AttentionInputs in;
  in.q = at::tensor({1.f, 1.f}).view({1, 1, 1, 2});
  in.k = at::tensor({-9.f, -9.f, 1.f, -1.f, 2.f, 3.f, -1.f, 9.f, 0.1f, 0.1f}).view({1, 1, 5, 2});
  in.v = in.k;
  return in;
}

TEST(HashAttentionTopK, KeepsTheKeysWhoseBitsAgree) {
  const AttentionInputs in = TwoChannels();  // agreement -2, 0, 2, 0, 2
  const std::string path = SignsOfChannels();
  const auto row = [&](int64_t heavy) {
    const auto mask =
        Make(Config(heavy, path))->AddMask(in, Mask::MakeEmpty({1, 1, 1, 5}), nullptr);
    SA_CHECK_OK(mask);
    return MaskRow(*mask, 0, 0, 0);
  };
  EXPECT_EQ(row(1), "..1..");  // the first of equals
  EXPECT_EQ(row(2), "..1.1");
  EXPECT_EQ(row(3), ".11.1");
}

TEST(HashAttentionTopK, ABiasCounts) {
  AttentionInputs in = TwoChannels();
  in.bias = at::zeros({1, 1, 1, 5});
  in.bias->select(3, 0).fill_(5);
  const auto mask =
      Make(Config(1, SignsOfChannels()))->AddMask(in, Mask::MakeEmpty({1, 1, 1, 5}), nullptr);
  SA_ASSERT_OK(mask.status());
  EXPECT_EQ(MaskRow(*mask, 0, 0, 0), "1....");
}

TEST(HashAttentionTopK, SignaturesAreKeptOnceForAKvHeadWhereWeightsAre) {
  const std::string path = PathOf("hash.safetensors");
  const AttentionInputs in = LayeredInputs({.keys = 30});
  WriteHashAttentionFile(path, {{.layer = in.layer}});
  EXPECT_EQ(Make(Config(3, path))->IndexBytes(in), 2 * 30 * 8);  // 40 bits: two words
  WriteHashAttentionFile(path, {{.layer = in.layer, .key_heads = 4, .bits = 32}});
  EXPECT_EQ(Make(Config(3, path))->IndexBytes(in), 4 * 30 * 4);
}

TEST(HashAttentionTopK, WeightsOfOtherShapesAreRefused) {
  const std::string path = PathOf("hash.safetensors");
  WriteHashAttentionFile(path, {{.layer = 0, .query_heads = 8}});
  AttentionInputs in = LayeredInputs({.keys = 30});
  in.layer = 0;
  const auto masker = Make(Config(3, path));
  EXPECT_THAT(masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr),
              StatusIs(kInvalid, HasSubstr("hash_attention_top_k: " + path)));
  EXPECT_THAT(masker->Prepare(in, masker->NewState().get()), StatusIs(kInvalid));
  EXPECT_EQ(masker->IndexBytes(in), 0);
}

TEST(HashAttentionTopK, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const Json& json) {
    return HashAttentionTopKDescriptor().create(json, MaskerOptions()).status();
  };
  EXPECT_THAT(create(Config(3, "")),
              StatusIs(kInvalid, HasSubstr("hash_attention_top_k.hat_weight_file must not be "
                                           "empty")));
  EXPECT_THAT(
      create(Config(3, PathOf("none.safetensors"))),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("hash_attention_top_k.hat_weight_file: ")));
  Json json = Config(3, SignsOfChannels());
  json["hat_mlp_activation"] = "gelu";
  EXPECT_THAT(create(json), StatusIs(kInvalid, HasSubstr("hat_mlp_activation must be that of")));
  json["hat_mlp_activation"] = "relu";
  SA_EXPECT_OK(create(json));
}

}  // namespace
}  // namespace sparse_attention
