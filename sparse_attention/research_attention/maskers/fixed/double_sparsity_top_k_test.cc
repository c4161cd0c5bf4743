#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k.h"

#include <ATen/ops/tensor.h>

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string WriteChannels(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/channels.json";
  std::ofstream(path) << text;
  return path;
}

Json Config(const std::string& path, int64_t heavy = 1, int64_t group_factor = 2) {
  return {{"heavy_size", heavy},
          {"sorted_channel_file", path},
          {"group_factor", group_factor},
          {"label_bits", 16}};
}

absl::StatusOr<Mask> AddKeys(const Json& json, const AttentionInputs& in) {
  SA_ASSIGN_OR_RETURN(const auto masker,
                      DoubleSparsityTopKDescriptor().create(json, MaskerOptions()));
  return masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
}

// One head of two channels; the second decides the logits, the first only its own.
AttentionInputs TwoChannels() {
  AttentionInputs in;
  in.q = at::tensor({1.f, 1.f}).view({1, 1, 1, 2});
  in.k = at::tensor({3.f, 0.f, 0.f, 9.f, 2.f, 5.f, 1.f, 1.f}).view({1, 1, 4, 2});
  in.v = in.k;
  return in;
}

TEST(DoubleSparsityTopK, ScoresByTheFirstChannelsOfTheList) {
  const AttentionInputs in = TwoChannels();
  const std::string first = R"({"model.layers.0.self_attn.qk_proj": [[0, 1]],)"
                            R"( "model.layers.0.self_attn.k_proj": [[1, 0]]})";
  Json json = Config(WriteChannels(first));
  SA_ASSERT_OK_AND_ASSIGN(const Mask by_first, AddKeys(json, in));
  EXPECT_EQ(MaskRow(by_first, 0, 0, 0), "1...");
  json["channel_selection"] = "k_proj";
  SA_ASSERT_OK_AND_ASSIGN(const Mask by_second, AddKeys(json, in));
  EXPECT_EQ(MaskRow(by_second, 0, 0, 0), ".1..");
  json["channel_selection"] = "q_proj";
  EXPECT_THAT(AddKeys(json, in), StatusIs(kInvalid, HasSubstr("No sorted channels found for "
                                                              "model.layers.0.self_attn.q_proj")));
}

// The Python hub takes the lists of the first layer that it sees for all layers.
TEST(DoubleSparsityTopK, EveryLayerHasItsOwnLists) {
  const std::string path = WriteChannels(R"({"model.layers.0.self_attn.qk_proj": [[0, 1]],)"
                                         R"( "model.layers.1.self_attn.qk_proj": [[1, 0]]})");
  SA_ASSERT_OK_AND_ASSIGN(const auto masker,
                          DoubleSparsityTopKDescriptor().create(Config(path), MaskerOptions()));
  AttentionInputs in = TwoChannels();
  for (const auto& [layer, row] : {std::pair{0, "1..."}, {1, ".1.."}, {0, "1..."}}) {
    in.layer = layer;
    const auto mask = masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
    SA_ASSERT_OK(mask.status());
    EXPECT_EQ(MaskRow(*mask, 0, 0, 0), row);
  }
}

TEST(DoubleSparsityTopK, ABiasCounts) {
  const std::string path = WriteChannels(R"({"model.layers.0.self_attn.qk_proj": [[0, 1]]})");
  AttentionInputs in = TwoChannels();
  in.bias = at::tensor({0.f, 0.f, 0.f, 100.f}).view({1, 1, 1, 4});
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, AddKeys(Config(path), in));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "...1");
}

TEST(DoubleSparsityTopK, IsFullWhereTheBudgetCoversTheKeysBeforeTheQueries) {
  const std::string path = WriteChannels(R"({"model.layers.0.self_attn.qk_proj": [[0, 1]]})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask full, AddKeys(Config(path, 3), TwoChannels()));
  EXPECT_TRUE(full.is_full());
  SA_ASSERT_OK_AND_ASSIGN(const Mask some, AddKeys(Config(path, 2), TwoChannels()));
  EXPECT_FALSE(some.is_full());
}

TEST(DoubleSparsityTopK, ErrorsNameFileLayerAndShapes) {
  const std::string path =
      WriteChannels(R"({"model.layers.0.self_attn.qk_proj": [[0, 1], [1, 0]]})");
  EXPECT_THAT(AddKeys(Config(path), TwoChannels()),
              StatusIs(kInvalid, HasSubstr("layer 0 has lists of 2 query heads and 2 "
                                           "channels; the inputs have 1 query heads of dim 2")));
  EXPECT_THAT(AddKeys(Config(path, 1, 3), TwoChannels()),
              StatusIs(kInvalid, HasSubstr("group_factor must be at most the dim, 2, got 3")));
  EXPECT_THAT(AddKeys(Config("none.json"), TwoChannels()),
              StatusIs(kInvalid, HasSubstr("double_sparsity_top_k.sorted_channel_file: Channel "
                                           "file not found: none.json")));
  Json json = Config(path);
  json["group_factor"] = 0;
  EXPECT_THAT(AddKeys(json, TwoChannels()),
              StatusIs(kInvalid, "double_sparsity_top_k.group_factor must be > 0, got 0"));
  json = Config(path);
  json["label_bits"] = 0;
  EXPECT_THAT(AddKeys(json, TwoChannels()),
              StatusIs(kInvalid,
                       "double_sparsity_top_k.label_bits must be in range (0, 16], got "
                       "0"));
}

}  // namespace
}  // namespace sparse_attention
