#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"

#include <ATen/ops/zeros.h>

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Mask AddTopK(absl::string_view json, const AttentionInputs& in, const Mask& previous,
             const MaskerOptions& options = {}) {
  const auto mask = MakeMasker<OracleTopK>(json, options)->AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask AddTopK(absl::string_view json, const AttentionInputs& in) {
  return AddTopK(json, in, Mask::MakeEmpty(in.mask_shape()));
}

// Query heads with one query each that share a KV head; row h holds the logits of head h.
AttentionInputs HeadsWithLogits(const std::vector<std::vector<float>>& logits) {
  AttentionInputs in = InputsWithLogits(logits);
  in.q = in.q.transpose(1, 2).contiguous();
  return in;
}

TEST(OracleTopK, KeepsTheHighestLogitsOfEveryRow) {
  const AttentionInputs in = InputsWithLogits({{1, -5, 3, 2, 0, 9}, {0, 8, -1, -2, 7, -9}});
  const Mask mask = AddTopK(R"({"heavy_size": 2})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "..1..1");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), ".1..1.");
}

TEST(OracleTopK, AFractionIsOfAllKeysAndTruncated) {
  const AttentionInputs in = InputsWithLogits({{1, -5, 3, 2, 0, 9}});
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 0.5})", in), 0, 0, 0), "..11.1");
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 0.49})", in), 0, 0, 0), "..1..1");  // 2.94
}

TEST(OracleTopK, ABudgetTruncatedToZeroSelectsNothing) {
  const AttentionInputs in = InputsWithLogits({{1, 2, 3, 4}});
  EXPECT_EQ(AddTopK(R"({"heavy_size": 0.2})", in).Density(), 0);
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 0.2})", in, MaskFromRows({".s1."})), 0, 0, 0),
            ".s1.");
}

TEST(OracleTopK, IsFullWhereTheBudgetCoversAllKeys) {
  const AttentionInputs in = InputsWithLogits({{1, 2, 3, 4}});
  for (const char* size : {"4", "5", "1.0", "3.0"}) {
    EXPECT_TRUE(AddTopK(std::string(R"({"heavy_size": )") + size + "}", in).is_full()) << size;
  }
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 3})", in), 0, 0, 0), ".111");
}

TEST(OracleTopK, OfEqualLogitsTheLowestIndexWins) {
  const AttentionInputs in = InputsWithLogits({{2, 2, 7, 2, 2, 2}, {1, 1, 1, 1, 1, 1}});
  const Mask mask = AddTopK(R"({"heavy_size": 3})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111...");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "111...");
}

TEST(OracleTopK, SpendsItsBudgetBesideWhatIsKeptAndNeverChangesAWeight) {
  const AttentionInputs in = InputsWithLogits({{9, 8, 7, 6, 5, 4}});
  const Mask mask = AddTopK(R"({"heavy_size": 2})", in, MaskFromRows({"s.1..."}));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "s111..");
}

TEST(OracleTopK, NeverSelectsInvisibleKeys) {
  AttentionInputs in = InputsWithLogits({{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}});
  in.causal = true;
  in.first_query_position = 2;
  Mask mask = AddTopK(R"({"heavy_size": 2})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), ".11...");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "..11..");
  in.sliding_window = 1;
  mask = AddTopK(R"({"heavy_size": 2})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "..1...");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "...1..");
}

TEST(OracleTopK, TakesAllThatIsLeftWhereThatIsLessThanTheBudget) {
  AttentionInputs in = InputsWithLogits({{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}});
  in.bias = at::zeros({1, 1, 2, 6});
  in.bias->narrow(3, 3, 3).fill_(-kInfinity);
  in.bias->select(2, 1).fill_(std::numeric_limits<float>::lowest());
  const Mask mask = AddTopK(R"({"heavy_size": 4})", in, MaskFromRows({"s....1", "1....."}));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "s11..1");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "1.....");  // a row that sees no key selects none
}

TEST(OracleTopK, ABiasCountsAgainstScaledLogits) {
  AttentionInputs in = InputsWithLogits({{10, 0, 0, 0}});
  in.bias = at::zeros({1, 1, 1, 4});
  in.bias->select(3, 2).fill_(5);
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 1})", in), 0, 0, 0), "1...");
  in.scale = 0.25;  // 2.5 against 5
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 1})", in), 0, 0, 0), "..1.");
}

TEST(OracleTopK, NanAndInfinityAreTheHighest) {
  const AttentionInputs in = InputsWithLogits({{1, NAN, 3, kInfinity, 2, -kInfinity}});
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 2})", in), 0, 0, 0), ".1.1..");
  EXPECT_EQ(MaskRow(AddTopK(R"({"heavy_size": 5})", in), 0, 0, 0), "11111.");
}

TEST(OracleTopK, HeadsOfAGroupSelectForThemselvesByDefault) {
  const AttentionInputs in = HeadsWithLogits({{4, 0, 3, 0}, {0, 0, 3, 3.5}});
  const Mask mask = AddTopK(R"({"heavy_size": 1})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1...");
  EXPECT_EQ(MaskRow(mask, 0, 1, 0), "...1");
}

TEST(OracleTopK, AGroupSelectsTogetherByMaxMeanOrSum) {
  const AttentionInputs in = HeadsWithLogits({{4, 0, 3, 0}, {0, 0, 3, 3.5}});
  const auto row = [&](GroupReduce reduce, int64_t head, const std::vector<std::string>& held) {
    at::Tensor previous = MaskFromRows(held).ToDense().transpose(1, 2).contiguous();
    const Mask mask = AddTopK(R"({"heavy_size": 1})", in, Mask::AdoptDense(previous),
                              {.selection = Selection::kKvGroup, .group_reduce = reduce});
    return MaskRow(mask, 0, head, 0);
  };
  // max 4, 0, 3, 3.5; mean 2, 0, 3, 1.75
  const std::vector<std::string> nothing = {"....", "...."};
  for (int64_t head : {0, 1}) {
    EXPECT_EQ(row(GroupReduce::kMax, head, nothing), "1...");
    EXPECT_EQ(row(GroupReduce::kMean, head, nothing), "..1.");
    EXPECT_EQ(row(GroupReduce::kSum, head, nothing), "..1.");
  }
  // A key that a head holds already counts for the other head alone: mean 2, 0, 3, 1.75 and sum 4,
  // 0, 3, 3.5.
  const std::vector<std::string> second_holds_key_2 = {"....", "..s."};
  EXPECT_EQ(row(GroupReduce::kMean, 0, second_holds_key_2), "..1.");
  EXPECT_EQ(row(GroupReduce::kMean, 1, second_holds_key_2), "..s.");
  EXPECT_EQ(row(GroupReduce::kSum, 0, second_holds_key_2), "1...");
  EXPECT_EQ(row(GroupReduce::kSum, 1, second_holds_key_2), "1.s.");
}

TEST(OracleTopK, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return OracleTopKDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create("{}"), StatusIs(kInvalid, "oracle_top_k.heavy_size is required"));
  EXPECT_THAT(create(R"({"heavy_size": 0})"),
              StatusIs(kInvalid, "oracle_top_k.heavy_size must be > 0, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": -0.02})"),
              StatusIs(kInvalid, "oracle_top_k.heavy_size must be > 0, got -0.02"));
  EXPECT_THAT(create(R"({"top_k": 4})"), StatusIs(kInvalid, HasSubstr("fields: heavy_size")));
}

}  // namespace
}  // namespace sparse_attention
