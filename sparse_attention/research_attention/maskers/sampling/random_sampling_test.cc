#include "sparse_attention/research_attention/maskers/sampling/random_sampling.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/sampler_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Masker> Sampler(const char* json, MaskerOptions options = {}) {
  auto masker = RandomSamplingDescriptor().create(ParsedJson(json), options);
  SA_CHECK_OK(masker);
  return *std::move(masker);
}

TEST(RandomSampling, ChecksTheRate) {
  for (const char* rate : {"0.0", "-0.1", "1.5", "2"}) {
    EXPECT_THAT(RandomSamplingDescriptor().create(
                    ParsedJson(std::string(R"({"sampling_rate": )") + rate + "}"), {}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("random_sampling.sampling_rate must be in range (0, 1]")));
  }
}

TEST(RandomSampling, TakesTheShareOfTheKeysThatAreLeft) {
  AttentionInputs in = RandomInputs({.queries = 3, .keys = 100});
  const Mask previous =
      *Mask::FromRowIndices(in.mask_shape(), at::arange(20).expand({1, 4, 3, 20}).contiguous());
  const auto sampler = Sampler(R"({"sampling_rate": 0.25})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, sampler->AddMask(in, previous, nullptr));
  const at::Tensor weights = mask.ToDense();
  EXPECT_TRUE(weights.narrow(3, 0, 20).eq(1).all().item<bool>());
  const at::Tensor rest = weights.narrow(3, 20, 80);
  EXPECT_TRUE(rest.gt(0).sum(-1).eq(20).all().item<bool>());
  EXPECT_TRUE(rest.eq(0).logical_or(rest.eq(0.25)).all().item<bool>());
}

TEST(RandomSampling, NeverDrawsInvisibleKeysAndTakesAtLeastOne) {
  AttentionInputs in = RandomInputs({.queries = 4, .keys = 30});
  in.causal = true;
  in.first_query_position = 0;
  const auto sampler = Sampler(R"({"sampling_rate": 0.01})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  for (int64_t i = 0; i < 4; ++i) {
    const std::vector<int64_t> keys = ActiveKeys(mask, 0, 0, i);
    ASSERT_EQ(keys.size(), 1u);
    EXPECT_LE(keys[0], i);
  }
}

TEST(RandomSampling, AFullRateKeepsEverythingForCertain) {
  const AttentionInputs in = RandomInputs({});
  const auto sampler = Sampler(R"({"sampling_rate": 1.0})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  EXPECT_TRUE(mask.Normalized().is_full());
}

TEST(RandomSampling, AGroupSharesItsDraws) {
  const AttentionInputs in = RandomInputs({.keys = 200});
  const auto sampler = Sampler(R"({"sampling_rate": 0.1})", {.selection = Selection::kKvGroup});
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  EXPECT_EQ(ActiveKeys(mask, 0, 0, 0), ActiveKeys(mask, 0, 1, 0));
  EXPECT_NE(ActiveKeys(mask, 0, 0, 0), ActiveKeys(mask, 0, 2, 0));
  EXPECT_NE(ActiveKeys(mask, 0, 0, 0), ActiveKeys(mask, 0, 0, 1));
}

TEST(RandomSampling, TheSeedDecides) {
  const AttentionInputs in = RandomInputs({.keys = 200});
  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  const auto run = [&](uint64_t seed, int64_t layer) {
    AttentionInputs step = in;
    step.layer = layer;
    return ActiveKeys(
        *Sampler(R"({"sampling_rate": 0.1})", {.seed = seed})->AddMask(step, empty, nullptr), 0, 0,
        0);
  };
  EXPECT_EQ(run(1, 0), run(1, 0));
  EXPECT_NE(run(1, 0), run(2, 0));
  EXPECT_NE(run(1, 0), run(1, 1));
}

// Over 20,000 rows every key is drawn as often as its weight says (6 standard deviations), and the
// weighted sum is unbiased (5 standard errors).
TEST(RandomSampling, FrequenciesMatchTheWeightsAndSumsAreUnbiased) {
  constexpr int64_t kKeys = 200, kRows = 20000;
  const std::vector<double> weights = ScoreWeights("lognormal_1", kKeys);
  const AttentionInputs in = RepeatedRows(weights, kRows, 0, 1);
  const auto sampler = Sampler(R"({"sampling_rate": 0.15})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  const at::Tensor dense = mask.ToDense().view({kRows, kKeys});
  const at::Tensor frequency = dense.gt(0).to(at::kDouble).mean(0);
  const double sd = std::sqrt(0.15 * 0.85 / kRows);
  EXPECT_LT(frequency.sub(0.15).abs().max().item<double>(), 6 * sd);
  const at::Tensor w = at::tensor(weights, at::kDouble);
  const at::Tensor sums = at::where(dense.gt(0), w.div(dense.to(at::kDouble)), 0.0).sum(1);
  const double error = sums.mean().item<double>() - w.sum().item<double>();
  EXPECT_LT(std::abs(error), 5 * sums.std().item<double>() / std::sqrt(double{kRows}));
}

TEST(RandomSampling, TheHubsRuleIsBiased) {
  constexpr int64_t kKeys = 200, kRows = 2000;
  const AttentionInputs in = RepeatedRows(ScoreWeights("uniform", kKeys), kRows, 0, 1);
  at::manual_seed(3);
  const auto sampler = Sampler(R"({"sampling_rate": 1.0, "estimator": "hub"})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  // With replacement a rate of 1 finds 1 - 1/e of the keys.
  EXPECT_NEAR(mask.Density(), 1 - std::exp(-1.0), 0.01);
}

}  // namespace
}  // namespace sparse_attention
