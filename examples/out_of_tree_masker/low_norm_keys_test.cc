#include "examples/out_of_tree_masker/low_norm_keys.h"

#include <ATen/ops/tensor.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace my_project {
namespace {

using sa::IsOk;
using sa::Mask;
using sa::StatusIs;

// Keys of norm 3, 1, 2, 5, 1 for the first KV head and 1, 2, 3, 4, 5 for the second.
sa::AttentionInputs FiveKeys() {
  sa::AttentionInputs in = sa::RandomInputs({.queries = 2, .keys = 5, .dim = 2});
  in.k = at::tensor({3.f, 0.f, 0.f, -1.f, 2.f,  0.f, 3.f, 4.f, 1.f, 0.f,  //
                     1.f, 0.f, 0.f, -2.f, -3.f, 0.f, 0.f, 4.f, 5.f, 0.f})
             .view({1, 2, 5, 2});
  return in;
}

Mask MaskOf(const sa::Masker& masker, const sa::AttentionInputs& in,
            sa::MaskerState* state = nullptr) {
  const auto mask = masker.AddMask(in, Mask::MakeEmpty(in.mask_shape()), state);
  SA_CHECK_OK(mask);
  return *mask;
}

TEST(LowNormKeys, KeepsTheShortestKeysOfEveryKvHead) {
  const auto shortest = sa::MakeMasker<LowNormKeys>(R"({"heavy_size": 2})");
  const Mask mask = MaskOf(*shortest, FiveKeys());
  for (int64_t query = 0; query < 2; ++query) {
    EXPECT_EQ(MaskRow(mask, 0, 0, query), ".1..1");
    EXPECT_EQ(MaskRow(mask, 0, 1, query), ".1..1");
    EXPECT_EQ(MaskRow(mask, 0, 2, query), "11...");
    EXPECT_EQ(MaskRow(mask, 0, 3, query), "11...");
  }
  const auto longest = sa::MakeMasker<LowNormKeys>(R"({"heavy_size": 2, "longest": true})");
  EXPECT_EQ(MaskRow(MaskOf(*longest, FiveKeys()), 0, 0, 0), "1..1.");
}

TEST(LowNormKeys, AStateThatGrewEqualsAFreshOne) {
  const auto masker = sa::MakeMasker<LowNormKeys>(R"({"heavy_size": 3})");
  const auto state = masker->NewState();
  const sa::AttentionInputs all = sa::RandomInputs({.keys = 24});
  for (const int64_t keys : {7, 8, 20, 24}) {
    sa::AttentionInputs in = all;
    in.k = all.k.slice(2, 0, keys);
    in.v = all.v.slice(2, 0, keys);
    EXPECT_TRUE(MaskOf(*masker, in, state.get()).ToDense().equal(MaskOf(*masker, in).ToDense()))
        << keys;
  }
}

TEST(LowNormKeys, ItsIndexIsANumberAKey) {
  const auto masker = sa::MakeMasker<LowNormKeys>(R"({"heavy_size": 3})");
  EXPECT_EQ(masker->IndexBytes(FiveKeys()), 2 * 5 * 4);
}

TEST(LowNormKeys, ChecksItsFields) {
  const auto create = [](const char* json) {
    return LowNormKeysDescriptor().create(sa::ParsedJson(json), {});
  };
  EXPECT_THAT(create(R"({"heavy_size": 0})"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "my_low_norm_keys.heavy_size must be > 0, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": 4, "longest": true})"), IsOk());
}

}  // namespace
}  // namespace my_project
