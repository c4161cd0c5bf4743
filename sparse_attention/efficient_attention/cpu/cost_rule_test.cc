#include "sparse_attention/efficient_attention/cpu/cost_rule.h"

#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention::cpu {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

constexpr LayerShape kShape = {Element::kBFloat16, 64, 64, 8, 2, 0};

class CostRuleTest : public ::testing::Test {
 protected:
  void SetUp() override { unsetenv("SA_GATHER_SHARE"); }
};

TEST(CostRule, ReadsInOrderAboveTheShareOfRowsOrOfPages) {
  CostRule rule;
  rule.shares = {0.4, 0.6};
  EXPECT_FALSE(rule.ReadsInOrder(400, 300, 1000, 1000));
  EXPECT_TRUE(rule.ReadsInOrder(401, 300, 1000, 1000));
  EXPECT_TRUE(rule.ReadsInOrder(401, 51, 1000, 1000));
  EXPECT_FALSE(rule.ReadsInOrder(408, 51, 1000, 1000));
  EXPECT_FALSE(rule.ReadsInOrder(600, 40, 1000, 1000));
  EXPECT_TRUE(rule.ReadsInOrder(601, 40, 1000, 1000));
  EXPECT_FALSE(rule.ReadsInOrder(0, 0, 0, 0));
}

TEST(CostRule, WhatWasMeasuredHoldsForLongSequencesAlone) {
  CostRule rule;
  rule.shares = {0.4, 0.4};
  rule.measured = {0.7, 0.7};
  rule.measured_from = 5000;
  EXPECT_TRUE(rule.ReadsInOrder(500, 500, 1000, 4999));
  EXPECT_FALSE(rule.ReadsInOrder(500, 500, 1000, 5000));
}

TEST_F(CostRuleTest, ShortSequencesAreNotMeasured) {
  SA_ASSERT_OK_AND_ASSIGN(const CostRule rule, CostRuleFor(kShape, 1000, 2, BestIsa()));
  EXPECT_EQ(rule.shares.rows, GatherShares().rows);
  EXPECT_EQ(rule.shares.pages, GatherShares().pages);
  EXPECT_GT(rule.measured_from, 1000);
}

TEST_F(CostRuleTest, LongOnesAreMeasuredOnce) {
  constexpr int64_t kLong = int64_t{1} << 30;
  SA_ASSERT_OK_AND_ASSIGN(const CostRule rule, CostRuleFor(kShape, kLong, 2, BestIsa()));
  EXPECT_LT(rule.measured_from, kLong);
  EXPECT_THAT(rule.measured.rows, AllOf(Ge(0.25), Le(0.7)));
  EXPECT_THAT(rule.measured.pages, AllOf(Ge(0.25), Le(0.7)));
  EXPECT_EQ(rule.shares.rows, GatherShares().rows);
  for (int again = 0; again < 5; ++again) {
    SA_ASSERT_OK_AND_ASSIGN(const CostRule same, CostRuleFor(kShape, 2 * kLong, 2, BestIsa()));
    EXPECT_EQ(same.measured.rows, rule.measured.rows);
    EXPECT_EQ(same.measured.pages, rule.measured.pages);
    EXPECT_EQ(same.measured_from, rule.measured_from);
  }
}

// Whatever the rows and the threads.
TEST_F(CostRuleTest, EveryShapeCanBeMeasured) {
  for (const LayerShape& shape : {LayerShape{Element::kFloat32, 256, 256, 16, 1, 0},
                                  LayerShape{Element::kFloat16, 33, 1, 1, 1, 0}}) {
    for (int threads : {1, 3, 70}) {
      const GatherShares shares = MeasureGatherShares(shape, threads, BestIsa());
      EXPECT_THAT(shares.rows, AllOf(Ge(0.25), Le(0.7)));
      EXPECT_THAT(shares.pages, AllOf(Ge(0.25), Le(0.7)));
    }
  }
}

TEST_F(CostRuleTest, TheEnvironmentFixesTheShare) {
  setenv("SA_GATHER_SHARE", "0.3", 1);
  SA_ASSERT_OK_AND_ASSIGN(const CostRule rule, CostRuleFor(kShape, int64_t{1} << 30, 2, BestIsa()));
  EXPECT_EQ(rule.shares.rows, 0.3);
  EXPECT_EQ(rule.shares.pages, 0.3);
  EXPECT_EQ(rule.measured_from, CostRule().measured_from);
  for (const char* bad : {"half", "-0.1", "1.5", "nan", "0.4x"}) {
    setenv("SA_GATHER_SHARE", bad, 1);
    EXPECT_THAT(
        CostRuleFor(kShape, 1000, 2, BestIsa()),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr("SA_GATHER_SHARE must be a number in [0, 1]"), HasSubstr(bad))));
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
