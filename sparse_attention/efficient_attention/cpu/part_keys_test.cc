#include "sparse_attention/efficient_attention/cpu/part_keys.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

// The first length whose parts hold enough rows on average, or reach the end.
TEST(PartKeys, DoublesUntilAPartHoldsEnoughRows) {
  constexpr int64_t kKeys = 8 * kPartKeys;
  EXPECT_EQ(PartKeys(kKeys, kKeys, kKeys), kPartKeys);
  EXPECT_EQ(PartKeys(8 * kPartRows, kKeys, kKeys), kPartKeys);
  EXPECT_EQ(PartKeys(8 * kPartRows - 1, kKeys, kKeys), 2 * kPartKeys);
  EXPECT_EQ(PartKeys(4 * kPartRows - 1, kKeys, kKeys), 4 * kPartKeys);
  EXPECT_EQ(PartKeys(1, kKeys, kKeys), kKeys);
  EXPECT_EQ(PartKeys(1, kKeys - 1, kKeys - 1), kKeys);
  // Rows that lie in the last eighth only.
  EXPECT_EQ(PartKeys(kPartRows, kPartKeys, kKeys), kPartKeys);
}

TEST(PartKeys, TakesNoKeysAndTheMost) {
  EXPECT_EQ(PartKeys(0, 0, 0), kPartKeys);
  EXPECT_EQ(PartKeys(0, 5, 5), kPartKeys);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(PartKeys(kMost, kMost, kMost), kPartKeys);
  EXPECT_EQ(PartKeys(0, kMost, kMost), kMost + 1);
}

}  // namespace
}  // namespace sparse_attention::cpu
