#include "sparse_attention/research_attention/maskers/fixed/sink.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

AttentionInputs EightKeys() {
  return RandomInputs({.heads = 1, .kv_heads = 1, .queries = 2, .keys = 8});
}

// The mask after `json` on an empty one.
Mask MaskOf(absl::string_view json, const AttentionInputs& in = EightKeys()) {
  const auto mask = MakeMasker<Sink>(json)->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

TEST(Sink, KeepsTheFirstKeysOfEveryRow) {
  const Mask mask = MaskOf(R"({"sink_size": 3})");
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111.....");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "111.....");
}

TEST(Sink, AFractionIsOfAllKeysAndTruncated) {
  EXPECT_EQ(MaskRow(MaskOf(R"({"sink_size": 0.25})"), 0, 0, 0), "11......");
  EXPECT_EQ(MaskRow(MaskOf(R"({"sink_size": 0.49})"), 0, 0, 0), "111.....");  // 3.92
  EXPECT_EQ(MaskRow(MaskOf(R"({"sink_size": 0.1})"), 0, 0, 0), "........");   // 0.8
}

TEST(Sink, IsFullWhereItCoversAllKeys) {
  for (const char* size : {"8", "9", "1.0", "2.5", "9223372036854775807"}) {
    EXPECT_TRUE(MaskOf(std::string(R"({"sink_size": )") + size + "}").is_full()) << size;
  }
  EXPECT_FALSE(MaskOf(R"({"sink_size": 7})").is_full());
  EXPECT_EQ(MaskRow(MaskOf(R"({"sink_size": 7})"), 0, 0, 0), "1111111.");
}

TEST(Sink, KeepsWhatEarlierMaskersKeepAndMakesItsOwnKeysCertain) {
  const Mask previous = MaskFromRows({"s....s1.", "........"});
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask mask,
      MakeMasker<Sink>(R"({"sink_size": 2})")->AddMask(EightKeys(), previous, nullptr));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "11...s1.");
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "11......");
}

TEST(Sink, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return SinkDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create("{}"), StatusIs(kInvalid, "sink.sink_size is required"));
  EXPECT_THAT(create(R"({"sink_size": 0})"),
              StatusIs(kInvalid, "sink.sink_size must be > 0, got 0"));
  EXPECT_THAT(create(R"({"sink_size": -4})"),
              StatusIs(kInvalid, "sink.sink_size must be > 0, got -4"));
  EXPECT_THAT(create(R"({"sink_size": 0.0})"),
              StatusIs(kInvalid, "sink.sink_size must be > 0, got 0.0"));
  EXPECT_THAT(
      create(R"({"sink_size": "four"})"),
      StatusIs(kInvalid, HasSubstr("sink.sink_size must be an integer (count) or a float")));
  EXPECT_THAT(
      create(R"({"size": 4})"),
      StatusIs(kInvalid, HasSubstr(R"(sink has no field "size" (did you mean "sink_size"?)")));
  SA_EXPECT_OK(
      create(R"({"type": "sink", "sink_size": 4, "search_space": {"sink_size": [1, 2]}})"));
}

}  // namespace
}  // namespace sparse_attention
