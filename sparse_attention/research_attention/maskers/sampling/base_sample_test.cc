#include "sparse_attention/research_attention/maskers/sampling/base_sample.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// Masses 1, 2, 3, 6: mean 3, squared deviations 4, 1, 0, 9.
const std::vector<double> kMasses = {1, 2, 3, 6};

BaseSample Sample() { return {MomentsOf(kMasses.data(), 4), 100, 50, 7}; }

TEST(BaseSample, DenominatorByHand) {
  const RowStatistics row = DenominatorStatistics(Sample(), 0.1);
  EXPECT_EQ(row.spread.count, 4);
  EXPECT_DOUBLE_EQ(row.spread.variance, 14.0 / 3);
  EXPECT_EQ(row.spread.dimensions, 1);
  // Mean of the squares 3.5; their deviations 0.5, -2.5, -3.5, 5.5.
  EXPECT_DOUBLE_EQ(row.spread.relative_variance, (0.25 + 6.25 + 12.25 + 30.25) / 4 / (3.5 * 3.5));
  EXPECT_DOUBLE_EQ(row.allowed_error, 0.1 * (50 + 100 * 3));
  EXPECT_EQ(row.heaviest, 7);
}

TEST(BaseSample, EqualMassesHaveNoSpread) {
  const std::vector<double> equal(5, 2.0);
  const RowStatistics row = DenominatorStatistics({MomentsOf(equal.data(), 5), 10, 0, 2}, 0.1);
  EXPECT_EQ(row.spread.variance, 0);
  EXPECT_EQ(row.spread.relative_variance, 0);
}

RowStatistics Output(const std::vector<double>& values, const std::vector<float>& certain,
                     int64_t dim, double epsilon = 0.1) {
  std::vector<double> scratch(OutputScratchDoubles(4, dim));
  return OutputStatistics(Sample(), {kMasses.data(), values.data(), certain.data(), dim}, epsilon,
                          scratch.data());
}

// Two contributions lie on a line, whatever their channels: rounding must not decide the budget.
TEST(BaseSample, TwoKeysCountAsOneDimension) {
  for (int i = 0; i < 50; ++i) {
    const std::vector<double> masses = {0.3 + 0.07 * i, 1.1 - 0.013 * i};
    const std::vector<double> values = {0.1 * i, -0.7, 1.3, 0.9, 0.2 - 0.03 * i, -1.1};
    const std::vector<float> certain = {0.5f, -0.1f, 2.f};
    std::vector<double> scratch(OutputScratchDoubles(2, 3));
    const BaseSample sample = {MomentsOf(masses.data(), 2), 100, 5, 2};
    const RowStatistics row = OutputStatistics(
        sample, {masses.data(), values.data(), certain.data(), 3}, 0.1, scratch.data());
    EXPECT_EQ(row.spread.dimensions, 1) << i;
    EXPECT_GT(row.spread.variance, 0) << i;
  }
}

// With one channel the contributions are x (v - o), a scalar. A held key of some mass gives the
// output a length that the base sample's noise does not hide.
TEST(BaseSample, OutputOfOneChannelByHand) {
  const std::vector<double> values = {2, -1, 0, 1};
  const std::vector<float> certain = {3000.f};
  BaseSample sample = Sample();
  sample.certain = 5000;
  const double denominator = 5000 + 100 * 3;
  const double output = ((1 * 2 - 2 * 1 + 0 + 6) * 25 + 3000) / denominator;
  std::vector<double> contributions;
  double mean = 0;
  for (int s = 0; s < 4; ++s) {
    contributions.push_back(kMasses[s] * (values[s] - output));
    mean += contributions.back() / 4;
  }
  double variance = 0;
  for (double c : contributions) variance += (c - mean) * (c - mean) / 3;
  std::vector<double> scratch(OutputScratchDoubles(4, 1));
  const RowStatistics row = OutputStatistics(
      sample, {kMasses.data(), values.data(), certain.data(), 1}, 0.1, scratch.data());
  EXPECT_NEAR(row.spread.variance, variance, 1e-12 * variance);
  EXPECT_EQ(row.spread.dimensions, 1);
  const double noise2 = variance * 1e4 * (0.25 - 0.01) / (denominator * denominator);
  EXPECT_NEAR(row.allowed_error, 0.1 * denominator * std::sqrt(output * output - noise2), 1e-9);
  EXPECT_NEAR(row.heaviest, 7 * std::abs(-1 - output), 1e-12);  // -1 lies farthest off
}

// Four keys of scattered values look long by their noise alone.
TEST(BaseSample, AnOutputThatIsNoiseAllowsNoError) {
  EXPECT_EQ(Output({2, -1, 0, 1}, {0.f}, 1).allowed_error, 0);
  // Longer than its noise, but by less than three standard errors.
  EXPECT_EQ(Output({2, -1, 0, 1}, {300.f}, 1).allowed_error, 0);
}

// A channel that is 0 in every value adds nothing; two equal channels double the trace and leave
// one direction.
TEST(BaseSample, ChannelsThatAreEqualAreOneDirection) {
  const RowStatistics one = Output({2, -1, 0, 1}, {30.f}, 1);
  const RowStatistics padded = Output({2, 0, -1, 0, 0, 0, 1, 0}, {30.f, 0.f}, 2);
  EXPECT_NEAR(padded.spread.variance, one.spread.variance, 1e-12 * one.spread.variance);
  const RowStatistics twice = Output({2, 2, -1, -1, 0, 0, 1, 1}, {30.f, 30.f}, 2);
  EXPECT_NEAR(twice.spread.variance, 2 * one.spread.variance, 1e-12 * one.spread.variance);
  // tr(C^2) = tr(C)^2, less what a sample of four overstates it by, a third.
  EXPECT_NEAR(twice.spread.dimensions, 1.5, 1e-9);
}

}  // namespace
}  // namespace sparse_attention
