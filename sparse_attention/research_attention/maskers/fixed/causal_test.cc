#include "sparse_attention/research_attention/maskers/fixed/causal.h"

#include <ATen/ops/zeros.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

Mask AddCausal(const AttentionInputs& in, const Mask& previous) {
  const auto mask = MakeMasker<Causal>("{}")->AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

AttentionInputs Inputs(int64_t queries, int64_t keys) {
  return RandomInputs({.heads = 1, .kv_heads = 1, .queries = queries, .keys = keys});
}

TEST(Causal, AnEmptyMaskBecomesEveryKeyUpToTheQuery) {
  const AttentionInputs in = Inputs(3, 5);
  const Mask mask = AddCausal(in, Mask::MakeEmpty(in.mask_shape()));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111..");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "1111.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 2), "11111");
}

TEST(Causal, AnAllZeroDenseMaskIsAsEmptyAsAnEmptyOne) {
  const AttentionInputs in = Inputs(2, 4);
  const Mask mask = AddCausal(in, Mask::AdoptDense(at::zeros({1, 1, 2, 4})));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "1111");
}

TEST(Causal, ClearsKeysAfterTheQueryAndAddsNone) {
  const Mask mask = AddCausal(Inputs(2, 6), MaskFromRows({"1..s.1", "....1s"}));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1..s..");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "....1s");
}

TEST(Causal, FollowsAbsolutePositions) {
  AttentionInputs in = Inputs(2, 6);
  in.first_query_position = 1;
  Mask mask = AddCausal(in, Mask::MakeEmpty(in.mask_shape()));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "11....");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "111...");
  in.first_query_position = 100;
  mask = AddCausal(in, Mask::MakeEmpty(in.mask_shape()));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111111");
}

TEST(Causal, HasNoFields) {
  EXPECT_THAT(CausalDescriptor().create(ParsedJson(R"({"window": 1})"), MaskerOptions()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr(R"(causal has no field "window" (it has no fields))")));
}

}  // namespace
}  // namespace sparse_attention
