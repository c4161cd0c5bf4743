#include "sparse_attention/research_attention/maskers/fixed/local.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// Two queries, the last of eight keys unless told otherwise.
AttentionInputs TwoQueries(int64_t keys = 8) {
  return RandomInputs({.heads = 1, .kv_heads = 1, .queries = 2, .keys = keys});
}

Mask MaskOf(absl::string_view json, const AttentionInputs& in = TwoQueries()) {
  const auto mask = MakeMasker<Local>(json)->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

TEST(Local, TheWindowEndsAtEachQuerysOwnPosition) {
  const Mask mask = MaskOf(R"({"window_size": 3})");
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "....111.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), ".....111");
}

TEST(Local, AFractionIsOfAllKeysAndTruncated) {
  const Mask mask = MaskOf(R"({"window_size": 0.3})");  // 2.4
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), ".....11.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "......11");
}

TEST(Local, IsFullUpToWindowPlusQueriesKeys) {
  EXPECT_TRUE(MaskOf(R"({"window_size": 6})").is_full());
  EXPECT_TRUE(MaskOf(R"({"window_size": 100})").is_full());
  EXPECT_TRUE(MaskOf(R"({"window_size": 1.0})").is_full());
  const Mask mask = MaskOf(R"({"window_size": 5})");
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "..11111.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "...11111");
  // A prefill of as many queries as keys is always dense.
  const AttentionInputs prefill =
      RandomInputs({.heads = 1, .kv_heads = 1, .queries = 8, .keys = 8});
  EXPECT_TRUE(MaskOf(R"({"window_size": 1})", prefill).is_full());
}

TEST(Local, ClearsTheFutureAndKeepsThePast) {
  const Mask previous = MaskFromRows({"1s....11", "....s..1"});
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask mask,
      MakeMasker<Local>(R"({"window_size": 2})")->AddMask(TwoQueries(), previous, nullptr));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1s...11.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "....s.11");
}

TEST(Local, RaisesASampledKeyInItsWindow) {
  const Mask previous = MaskFromRows({".....ss.", "......s."});
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask mask,
      MakeMasker<Local>(R"({"window_size": 1})")->AddMask(TwoQueries(), previous, nullptr));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), ".....s1.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "......s1");
}

TEST(Local, FollowsAbsolutePositions) {
  AttentionInputs in = TwoQueries(12);
  in.first_query_position = 3;
  const Mask mask = MaskOf(R"({"window_size": 2})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "..11........");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "...11.......");
}

TEST(Local, AWindowBeforeTheFirstKeyIsCut) {
  AttentionInputs in = TwoQueries(12);
  in.first_query_position = 0;
  const Mask mask = MaskOf(R"({"window_size": 5})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1...........");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "11..........");
}

TEST(Local, AQueryBehindAllKeysKeepsWhatItsWindowReaches) {
  AttentionInputs in = TwoQueries(8);
  in.first_query_position = 9;
  const Mask mask = MaskOf(R"({"window_size": 4})", in);  // positions 9 and 10
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "......11");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), ".......1");
}

TEST(Local, AWindowTruncatedToZeroOnlyClearsTheFuture) {
  const Mask previous = MaskFromRows({"1.....11", "........"});
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask mask,
      MakeMasker<Local>(R"({"window_size": 0.1})")->AddMask(TwoQueries(), previous, nullptr));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1.....1.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "........");
}

TEST(Local, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return LocalDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create("{}"), StatusIs(kInvalid, "local.window_size is required"));
  EXPECT_THAT(create(R"({"window_size": 0})"),
              StatusIs(kInvalid, "local.window_size must be > 0, got 0"));
  EXPECT_THAT(create(R"({"window_size": -0.5})"),
              StatusIs(kInvalid, "local.window_size must be > 0, got -0.5"));
  EXPECT_THAT(create(R"({"window": 4})"),
              StatusIs(kInvalid, HasSubstr(R"(did you mean "window_size"?)")));
}

}  // namespace
}  // namespace sparse_attention
