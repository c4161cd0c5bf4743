#include "sparse_attention/config/index_ranges.h"

#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

std::string Canonical(absl::string_view text) {
  absl::StatusOr<IndexRanges> ranges = IndexRanges::Parse(text);
  return ranges.ok() ? ranges->ToString() : ranges.status().ToString();
}

TEST(IndexRanges, TextIsCanonical) {
  EXPECT_EQ(Canonical("0-1"), "0-1");
  EXPECT_EQ(Canonical("5"), "5");
  EXPECT_EQ(Canonical("5-5"), "5");
  EXPECT_EQ(Canonical("2-"), "2-");
  EXPECT_EQ(Canonical("8-,0-3"), "0-3,8-");
  EXPECT_EQ(Canonical("0-1,2,3-4"), "0-4");
  EXPECT_EQ(Canonical("1,1,0-3,2-9,4-"), "0-");
  EXPECT_EQ(Canonical("3-,5"), "3-");
  EXPECT_EQ(Canonical("3-,5-"), "3-");
  EXPECT_EQ(Canonical("007"), "7");
  EXPECT_EQ(Canonical("999999999"), "999999999");
}

TEST(IndexRanges, DefaultIsEverything) {
  EXPECT_TRUE(IndexRanges().IsAll());
  EXPECT_EQ(IndexRanges().ToString(), "0-");
  EXPECT_THAT(IndexRanges::Parse("0-"), IsOkAndHolds(IndexRanges()));
  EXPECT_FALSE(IndexRanges::Parse("1-")->IsAll());
  EXPECT_TRUE(IndexRanges().Contains(0));
  EXPECT_TRUE(IndexRanges().Contains(1 << 30));
}

TEST(IndexRanges, EqualSetsAreEqual) {
  EXPECT_EQ(*IndexRanges::Parse("0,1,2"), *IndexRanges::Parse("0-2"));
  EXPECT_NE(*IndexRanges::Parse("0-2"), *IndexRanges::Parse("0-3"));
}

TEST(IndexRanges, ContainsExactlyTheListedIndices) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 300; ++trial) {
    std::set<int> expected;
    std::string text;
    for (int i = 0, n = 1 + random() % 5; i < n; ++i) {
      const int first = random() % 20;
      const int last = first + random() % 6;
      const bool open = random() % 12 == 0;
      absl::StrAppend(&text, i == 0 ? "" : ",", first, "-");
      if (!open) absl::StrAppend(&text, last);
      for (int index = first; index <= (open ? 40 : last); ++index) expected.insert(index);
    }
    SA_ASSERT_OK_AND_ASSIGN(const IndexRanges ranges, IndexRanges::Parse(text));
    SA_ASSERT_OK_AND_ASSIGN(const IndexRanges again, IndexRanges::Parse(ranges.ToString()));
    EXPECT_EQ(ranges, again) << text;
    for (int index = 0; index <= 40; ++index) {
      ASSERT_EQ(ranges.Contains(index), expected.count(index) == 1) << text << " at " << index;
    }
  }
}

TEST(IndexRanges, BadTextIsAnError) {
  for (const char* text : {"", ",", "x", "-", "-1", "1-2-3", "1,", ",1", "1 - 2", " 1", "1-x", "+1",
                           "1.0", "1000000000", "99999999999999999999", "0-1000000000", "٣"}) {
    EXPECT_THAT(IndexRanges::Parse(text),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         absl::StrCat("must be ranges such as \"0-3,8-\", got \"", text, "\"")));
  }
  EXPECT_THAT(IndexRanges::Parse("0,3-1"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "has a range that ends before it begins, got \"0,3-1\""));
  EXPECT_THAT(IndexRanges::Parse(std::string("1\0", 2)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\\u0000")));
}

}  // namespace
}  // namespace sparse_attention
