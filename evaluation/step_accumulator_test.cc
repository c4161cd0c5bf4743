#include "evaluation/step_accumulator.h"

#include <vector>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// One step of one layer with `rows` rows.
std::vector<MetricRecord> Step(int64_t layer, double density, double kv, int rows, double error) {
  std::vector<MetricRecord> group = {
      {.metric = &kResearchAttentionDensity, .value = density, .layer = layer},
      {.metric = &kKvRowsFraction, .value = kv, .layer = layer},
      {.metric = &kIndexBytesFraction, .value = 0.5, .layer = layer}};
  for (int row = 0; row < rows; ++row) {
    group.push_back({.metric = &kResearchAttentionOutputError, .value = error, .layer = layer});
  }
  return group;
}

TEST(StepAccumulator, WeighsTokensWithinALayerAndLayersAlike) {
  StepAccumulator accumulator;
  accumulator.RecordGroup(Step(0, 0.1, 0.2, 30, 0.5));  // a question of 30 rows
  accumulator.RecordGroup(Step(0, 0.4, 0.8, 10, 0.1));  // later steps of 10
  accumulator.RecordGroup(Step(1, 1.0, 1.0, 10, 0.0));
  const SampleMeasurements result = accumulator.Result();
  EXPECT_NEAR(result.density, ((0.1 * 30 + 0.4 * 10) / 40 + 1) / 2, 1e-12);
  EXPECT_NEAR(result.kv_bytes_fraction, ((0.2 * 30 + 0.8 * 10) / 40 + 1) / 2, 1e-12);
  EXPECT_NEAR(result.index_bytes_fraction, 0.5, 1e-12);
  EXPECT_EQ(result.output_error.count(), 50);
  EXPECT_NEAR(result.output_error.Mean(), (0.5 * 30 + 0.1 * 10) / 50, 1e-12);
}

TEST(StepAccumulator, IsZeroWithoutSteps) {
  EXPECT_EQ(StepAccumulator().Result().density, 0);
  EXPECT_EQ(StepAccumulator().Result().output_error.count(), 0);
}

}  // namespace
}  // namespace sparse_attention
