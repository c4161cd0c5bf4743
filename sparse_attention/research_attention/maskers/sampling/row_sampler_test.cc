#include "sparse_attention/research_attention/maskers/sampling/row_sampler.h"

#include <cmath>
#include <map>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

PhiloxStream Stream(uint32_t position) {
  return PhiloxStream(42, RandomPurpose::kTest, 0, 0, position);
}

TEST(SampleWithoutReplacement, GivesDistinctAscendingRanks) {
  for (int64_t population : {1, 2, 7, 64, 1000}) {
    for (int64_t count = 0; count <= population; count += 1 + population / 9) {
      PhiloxStream stream = Stream(static_cast<uint32_t>(population));
      const std::vector<int64_t> ranks = SampleWithoutReplacement(stream, population, count);
      ASSERT_EQ(static_cast<int64_t>(ranks.size()), count);
      for (size_t i = 0; i < ranks.size(); ++i) {
        ASSERT_GE(ranks[i], 0);
        ASSERT_LT(ranks[i], population);
        ASSERT_TRUE(i == 0 || ranks[i - 1] < ranks[i]);
      }
    }
  }
}

TEST(SampleWithoutReplacement, Ends) {
  PhiloxStream stream = Stream(0);
  EXPECT_THAT(SampleWithoutReplacement(stream, 0, 0), IsEmpty());
  EXPECT_THAT(SampleWithoutReplacement(stream, 3, 3), ElementsAre(0, 1, 2));
}

TEST(SampleWithoutReplacement, IsTheSetOfTheFirstDistinctDraws) {
  PhiloxStream stream = Stream(5), copy = Stream(5);
  const std::vector<int64_t> ranks = SampleWithoutReplacement(stream, 100, 20);
  std::set<int64_t> expected;
  while (expected.size() < 20) expected.insert(copy.Below(100));
  EXPECT_EQ(std::set<int64_t>(ranks.begin(), ranks.end()), expected);
  // More than half: the complement is drawn.
  PhiloxStream large = Stream(6), large_copy = Stream(6);
  const std::vector<int64_t> most = SampleWithoutReplacement(large, 100, 80);
  std::set<int64_t> left_out;
  while (left_out.size() < 20) left_out.insert(large_copy.Below(100));
  for (int64_t rank : most) EXPECT_EQ(left_out.count(rank), 0u);
}

// Every subset is equally likely, on both sides of the half: 6 standard deviations, false alarm
// below 1e-7 in all.
TEST(SampleWithoutReplacement, EverySubsetIsEquallyLikely) {
  constexpr int kDraws = 60000;
  for (int64_t count : {2, 3}) {
    std::map<std::vector<int64_t>, int> counts;
    for (int i = 0; i < kDraws; ++i) {
      PhiloxStream stream = Stream(static_cast<uint32_t>(i));
      ++counts[SampleWithoutReplacement(stream, 5, count)];
    }
    EXPECT_EQ(counts.size(), 10u);
    const double sd = std::sqrt(kDraws * 0.1 * 0.9);
    for (const auto& [subset, hits] : counts) EXPECT_NEAR(hits, kDraws / 10.0, 6 * sd);
  }
}

}  // namespace
}  // namespace sparse_attention
