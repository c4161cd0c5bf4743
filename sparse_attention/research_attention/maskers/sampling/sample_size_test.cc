#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// A spread that is known well: no correction, no doubt.
SampleSpread Known(double variance, double dimensions = 1) {
  return {/*count=*/100, variance, dimensions, /*relative_variance=*/0};
}

TEST(SquaredErrorQuantile, IsTheTwoSidedNormalQuantileForAScalar) {
  EXPECT_NEAR(std::sqrt(SquaredErrorQuantile(0.05, 1)), 1.959963985, 1e-8);
  EXPECT_NEAR(std::sqrt(SquaredErrorQuantile(0.2, 1)), 1.281551566, 1e-8);
  // Many dimensions: the squared length hardly varies.
  EXPECT_NEAR(SquaredErrorQuantile(0.05, 10000), 1 + 1.645 * std::sqrt(2 / 10000.0), 1e-3);
}

TEST(OptimalSampleSize, FollowsTheFinitePopulationLimit) {
  // Unbounded: (1.96 * 2 * 1000 / 100)^2 = 1536.6; of 1000 keys: 1536.6 * 1000 / 2536.6 = 605.8.
  const SampleSizeProblem problem{1000, 100, 0.05, 0};
  EXPECT_EQ(OptimalSampleSize(4, 1, problem), 606);
  // The error of that budget is what was allowed: N sqrt(V (1/b - 1/N)) 1.96 = 100.
  EXPECT_NEAR(1.96 * 1000 * std::sqrt(4 * (1.0 / 606 - 1.0 / 1000)), 100, 0.2);
}

TEST(ComputeSampleSize, EqualsTheOptimumWhereTheSpreadIsKnown) {
  for (double dimensions : {1.0, 3.0, 64.0}) {
    const SampleSizeProblem problem{30000, 900, 0.1, 0};
    const SampleSize size = ComputeSampleSize(Known(2.5, dimensions), problem);
    EXPECT_EQ(size.budget, OptimalSampleSize(2.5, dimensions, problem));
    EXPECT_TRUE(size.guarantee_met);
  }
}

TEST(ComputeSampleSize, IsStudentsCorrectionForAGaussian) {
  // Kurtosis 3, 30 keys: the second-order term gives 1.96^2 (1 + 4.84 / 60) = 4.152, t^2 with 29
  // degrees of freedom 4.183.
  const SampleSizeProblem problem{1000000000000, 1e9, 0.05, 0};
  const SampleSize size = ComputeSampleSize({30, 1, 1, 2}, problem);
  const double q = size.budget / (1e3 * 1e3);
  EXPECT_NEAR(q, 4.152, 0.002);
  EXPECT_GT(q, 1.96 * 1.96 * 1.05);
}

TEST(ComputeSampleSize, NeverBelowTheBaseSampleNorAboveThePopulation) {
  EXPECT_EQ(ComputeSampleSize(Known(1e-9), {1000, 100, 0.05, 0}).budget, 100);
  EXPECT_EQ(ComputeSampleSize(Known(0), {1000, 100, 0.05, 0}).budget, 100);
  EXPECT_EQ(ComputeSampleSize(Known(1e9), {1000, 1e-3, 0.05, 0}).budget, 1000);
  EXPECT_EQ(ComputeSampleSize(Known(1), {50, 1, 0.05, 0}).budget, 50);
}

TEST(ComputeSampleSize, ReadsEverythingWhereNothingIsKnown) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const SampleSize& size : {ComputeSampleSize(Known(nan), {1000, 1, 0.05, 0}),
                                 ComputeSampleSize(Known(1), {1000, nan, 0.05, 0}),
                                 ComputeSampleSize(Known(1), {1000, 0, 0.05, 0})}) {
    EXPECT_EQ(size.budget, 1000);
    EXPECT_TRUE(size.guarantee_met);
  }
}

TEST(ComputeSampleSize, DoesNotPromiseWhatTheSampleCannotSupport) {
  const SampleSizeProblem calm{30000, 900, 0.05, /*heaviest=*/1};
  EXPECT_TRUE(ComputeSampleSize(Known(1), calm).guarantee_met);
  // One key, drawn once, moves the estimate by heaviest * N / b: more than what is allowed.
  SampleSizeProblem heavy = calm;
  heavy.heaviest = 900;
  EXPECT_FALSE(ComputeSampleSize(Known(1), heavy).guarantee_met);
  // The variance itself is uncertain by more than a third.
  EXPECT_FALSE(ComputeSampleSize({100, 1, 1, 12}, calm).guarantee_met);
  EXPECT_TRUE(ComputeSampleSize({100, 1, 1, 11}, calm).guarantee_met);
}

}  // namespace
}  // namespace sparse_attention
