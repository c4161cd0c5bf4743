#include "sparse_attention/research_attention/maskers/fixed/quest_top_k.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Mask AddQuest(absl::string_view json, const AttentionInputs& in, const Mask& previous,
              const MaskerOptions& options = {}) {
  const auto mask = MakeMasker<QuestTopK>(json, options)->AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask AddQuest(absl::string_view json, const AttentionInputs& in) {
  return AddQuest(json, in, Mask::MakeEmpty(in.mask_shape()));
}

// With one channel a page's bound is its largest logit where the query is positive.
const AttentionInputs kFivePages =
    InputsWithLogits({{0, 1, 9, 0, 3, 2, 0, 0, 5, 5}});  // pages of 2: 1, 9, 3, 0, 5

TEST(QuestTopK, KeepsThePagesWithTheHighestBounds) {
  EXPECT_EQ(MaskRow(AddQuest(R"({"heavy_size": 6, "page_size": 2})", kFivePages), 0, 0, 0),
            "..1111..11");
  EXPECT_EQ(MaskRow(AddQuest(R"({"heavy_size": 8, "page_size": 2})", kFivePages), 0, 0, 0),
            "111111..11");
}

TEST(QuestTopK, NeverFewerThanThreePagesAndRoundedDown) {
  for (const char* size : {"1", "2", "5", "7", "0.1"}) {
    const std::string json = std::string(R"({"page_size": 2, "heavy_size": )") + size + "}";
    EXPECT_EQ(MaskRow(AddQuest(json, kFivePages), 0, 0, 0), "..1111..11") << size;
  }
}

TEST(QuestTopK, TheLastPageMayBeShort) {
  const AttentionInputs in = InputsWithLogits({{0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 3}});
  EXPECT_EQ(MaskRow(AddQuest(R"({"heavy_size": 9, "page_size": 3})", in), 0, 0, 0),
            "...111111...1");
}

TEST(QuestTopK, IsFullWhereTheBudgetCoversAllKeys) {
  for (const char* size : {"10", "11", "1.0"}) {
    const std::string json = std::string(R"({"page_size": 2, "heavy_size": )") + size + "}";
    EXPECT_TRUE(AddQuest(json, kFivePages).is_full()) << size;
  }
  // A single key is kept by a budget that truncates to 0, too.
  const AttentionInputs one = InputsWithLogits({{0}});
  EXPECT_TRUE(AddQuest(R"({"heavy_size": 0.5, "page_size": 2})", one).is_full());
}

TEST(QuestTopK, OfEqualPagesTheFirstWin) {
  const AttentionInputs in = InputsWithLogits({{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}});
  EXPECT_EQ(MaskRow(AddQuest(R"({"heavy_size": 6, "page_size": 2})", in), 0, 0, 0), "111111....");
}

// Budgets overlap: the Python hub does not look at what is kept already.
TEST(QuestTopK, KeysThatAreHeldTakePartAndKeepTheirWeights) {
  const Mask mask =
      AddQuest(R"({"heavy_size": 6, "page_size": 2})", kFivePages, MaskFromRows({"1.s......."}));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1.s111..11");
}

TEST(QuestTopK, APageOfInvisibleKeysIsNoCandidate) {
  AttentionInputs in = kFivePages;
  in.bias = at::zeros({1, 1, 1, 10});
  in.bias->narrow(3, 2, 2).fill_(-std::numeric_limits<float>::infinity());
  in.bias->select(3, 4).fill_(-std::numeric_limits<float>::infinity());
  EXPECT_EQ(MaskRow(AddQuest(R"({"heavy_size": 6, "page_size": 2})", in), 0, 0, 0), "11...1..11");
}

TEST(QuestTopK, APageIsACandidateWhereAnyHeadOfTheGroupSeesIt) {
  AttentionInputs in = RandomInputs({.heads = 2, .kv_heads = 1, .queries = 1, .keys = 10});
  in.bias = at::zeros({1, 2, 1, 10});
  constexpr float kForbidden = -std::numeric_limits<float>::infinity();
  in.bias->narrow(3, 2, 4).fill_(kForbidden);               // pages 1 and 2 for both heads
  in.bias->select(1, 0).narrow(2, 0, 2).fill_(kForbidden);  // page 0 for the first
  const Mask mask = AddQuest(R"({"heavy_size": 6, "page_size": 2})", in,
                             Mask::MakeEmpty(in.mask_shape()), {.selection = Selection::kKvGroup});
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "......1111");
  EXPECT_EQ(MaskRow(mask, 0, 1, 0), "11....1111");
}

TEST(QuestTopK, CoarseBoundsMayChangeTheChoice) {
  const AttentionInputs in = RandomInputs({.queries = 8, .keys = 64});
  const Mask exact = AddQuest(R"({"heavy_size": 16, "page_size": 4})", in);
  const Mask one_bit = AddQuest(R"({"heavy_size": 16, "page_size": 4, "label_bits": 1})", in);
  EXPECT_FALSE(exact.ToDense().equal(one_bit.ToDense()));
  EXPECT_EQ(exact.Density(), one_bit.Density());
}

TEST(QuestTopK, IndexBytes) {
  const AttentionInputs in = RandomInputs({.keys = 33, .dim = 8}, 1, at::kBFloat16);
  EXPECT_EQ(MakeMasker<QuestTopK>(R"({"heavy_size": 4, "page_size": 16})")->IndexBytes(in),
            2 * 2 * 3 * 8 * 2);
  EXPECT_EQ(MakeMasker<QuestTopK>(R"({"heavy_size": 4, "page_size": 16, "label_bits": 4})")
                ->IndexBytes(in),
            2 * 2 * 3 * (4 + 8));
}

TEST(QuestTopK, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return QuestTopKDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create(R"({"heavy_size": 1, "page_size": 0})"),
              StatusIs(kInvalid, "quest_top_k.page_size must be greater than 0, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": 1, "page_size": 4, "label_bits": 17})"),
              StatusIs(kInvalid, "quest_top_k.label_bits must be in range (0, 16], got 17"));
}

}  // namespace
}  // namespace sparse_attention
