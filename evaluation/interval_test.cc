#include "evaluation/interval.h"

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

TEST(WilsonInterval, KnownValues) {
  // Brown, Cai, DasGupta 2001: the interval that a score test inverts.
  const Interval half = WilsonInterval(5, 10);
  EXPECT_NEAR(half.low, 0.2366, 1e-4);
  EXPECT_NEAR(half.high, 0.7634, 1e-4);
  const Interval all = WilsonInterval(8, 8);
  EXPECT_NEAR(all.low, 0.6756, 1e-4);
  EXPECT_EQ(all.high, 1);
  const Interval none = WilsonInterval(0, 8);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 1 - 0.6756, 1e-4);
}

TEST(WilsonInterval, NothingIsKnownWithoutTrials) {
  EXPECT_EQ(WilsonInterval(0, 0).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

}  // namespace
}  // namespace sparse_attention
