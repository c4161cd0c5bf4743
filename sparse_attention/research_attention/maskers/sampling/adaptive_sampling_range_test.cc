// Which keys adaptive sampling may draw, under both estimators, and the Python hub's rule in cases
// worked out by hand; its golden outputs are in tests/golden.
#include <ATen/Context.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"

namespace sparse_attention {
namespace {

// One head and `queries` queries that weigh all keys the same.
AttentionInputs EqualLogits(int64_t queries, int64_t keys) {
  return InputsWithLogits(std::vector<std::vector<float>>(queries, std::vector<float>(keys, 0.f)));
}

std::unique_ptr<Masker> Sampler(const std::string& base, const std::string& init,
                                const std::string& local, const char* estimator) {
  return MakeMasker<AdaptiveSampling>(absl::StrCat(
      R"({"base_rate_sampling": )", base, R"(, "epsilon": 0.5, "delta": 0.2, "init_offset": )",
      init, R"(, "local_offset": )", local, R"(, "estimator": ")", estimator, R"("})"));
}

Mask Sampled(const Masker& masker, const AttentionInputs& in, const Mask& previous) {
  at::manual_seed(1);
  const auto mask = masker.AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask Sampled(const Masker& masker, const AttentionInputs& in) {
  return Sampled(masker, in, Mask::MakeEmpty(in.mask_shape()));
}

// The keys that any of many rows draws: "[2, 13)" where they are all of that range.
std::string DrawnRange(const char* estimator, const std::string& init, const std::string& local,
                       int64_t keys) {
  const AttentionInputs in = EqualLogits(400, keys);
  const Mask mask = Sampled(*Sampler("0.1", init, local, estimator), in);
  const at::Tensor any = mask.ToActive()[0][0].any(0);
  const at::Tensor drawn = any.nonzero().flatten();
  if (drawn.numel() == 0) return "none";
  const int64_t first = drawn[0].item<int64_t>();
  const int64_t last = drawn[-1].item<int64_t>();
  const bool gaps = last - first + 1 != drawn.numel();
  return absl::StrCat("[", first, ", ", last + 1, ")", gaps ? " with gaps" : "");
}

TEST(AdaptiveSamplingRange, CountsAndFractionsBoundWhatIsDrawn) {
  for (const char* estimator : {"unbiased", "hub"}) {
    SCOPED_TRACE(estimator);
    EXPECT_EQ(DrawnRange(estimator, "2", "3", 16), "[2, 13)");
    EXPECT_EQ(DrawnRange(estimator, "0.1", "0.2", 100), "[10, 80)");
    EXPECT_EQ(DrawnRange(estimator, "5", "0.25", 100), "[5, 75)");
    EXPECT_EQ(DrawnRange(estimator, "0.25", "5", 100), "[25, 95)");
    EXPECT_EQ(DrawnRange(estimator, "0", "0", 20), "[0, 20)");
    // 1 is one key, 0.05 of 30 is 1.5 keys and so one.
    EXPECT_EQ(DrawnRange(estimator, "1", "0.05", 30), "[1, 29)");
  }
}

TEST(AdaptiveSamplingRange, AFractionIsOfTheKeysThatAQuerySees) {
  AttentionInputs in = EqualLogits(2, 40);
  in.causal = true;
  in.first_query_position = 19;
  // More than are open: all of them are kept.
  const auto masker = Sampler("1000", "0.1", "0.25", "unbiased");
  const Mask mask = Sampled(*masker, in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0),
            std::string(2, '.') + std::string(13, '1') + std::string(25, '.'));
  EXPECT_EQ(MaskRow(mask, 0, 0, 1),
            std::string(2, '.') + std::string(14, '1') + std::string(24, '.'));
}

TEST(AdaptiveSamplingRange, WithoutTwoOpenKeysTheHubIsDenseAndWeKeepWhatThereIs) {
  const AttentionInputs in = EqualLogits(2, 10);
  const struct {
    const char* init;
    const char* local;
    int64_t open;
  } cases[] = {{"5", "4", 1},   {"5", "5", 0},     {"8", "7", 0},
               {"100", "0", 0}, {"1.0", "1.0", 0}, {"0", "99", 0}};
  for (const auto& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.init, " ", c.local));
    EXPECT_TRUE(Sampled(*Sampler("0.2", c.init, c.local, "hub"), in).is_full());
    const Mask ours = Sampled(*Sampler("0.2", c.init, c.local, "unbiased"), in);
    EXPECT_EQ(ours.ToActive().sum().item<int64_t>(), 2 * c.open);
  }
  EXPECT_FALSE(Sampled(*Sampler("2", "4", "4", "hub"), in).is_full());  // two keys are enough
}

// Equal scores have no spread, so the budget is the base sample: n of N keys with weight n / N.
TEST(AdaptiveSamplingHub, TheBaseSampleIsAtLeastTwoAndAFractionOfTheRange) {
  const AttentionInputs in = EqualLogits(300, 24);
  const struct {
    const char* base;
    double keys;  // of the 20 in the range
  } cases[] = {{"1", 2}, {"2", 2}, {"5", 5}, {"0.01", 2}, {"0.25", 5}, {"0.99", 19}, {"50", 20}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.base);
    const at::Tensor weights = Sampled(*Sampler(c.base, "2", "2", "hub"), in).ToDense();
    const at::Tensor drawn = weights.masked_select(weights.gt(0));
    EXPECT_NEAR(drawn.min().item<double>(), c.keys / 20, 1e-6);
    EXPECT_NEAR(drawn.max().item<double>(), c.keys / 20, 1e-6);
    // Draws with replacement: N (1 - (1 - 1/N)^n) distinct keys on average.
    const double distinct = 20 * (1 - std::pow(0.95, c.keys));
    EXPECT_NEAR(weights.gt(0).sum(-1).to(at::kDouble).mean().item<double>(), distinct,
                6 * std::sqrt(c.keys / 300));
  }
}

// The hub's budget before it is raised to the base sample: the one-sided normal quantile.
int64_t HubBudget(double deviation, double denominator, double range, double epsilon,
                  double quantile) {
  const double root = quantile * deviation * range / std::max(epsilon * denominator, 1e-8);
  return static_cast<int64_t>(std::clamp(root * root, 1.0, range));
}

TEST(AdaptiveSamplingHub, TheBudgetIsThatOfItsFormula) {
  constexpr double kQuantile = 0.8416212335729143;         // of a standard normal at 0.8
  EXPECT_EQ(HubBudget(0.05, 10, 100, 0.3, kQuantile), 1);  // a value of the hub: 1.97 truncated

  constexpr int64_t kRows = 200, kKeys = 64, kBase = 2, kBegin = 2, kEnd = 61;
  constexpr double kRange = kEnd - kBegin, kEpsilon = 0.5;
  std::vector<std::vector<float>> logits(kRows, std::vector<float>(kKeys));
  std::vector<std::string> held(kRows, std::string(kKeys, '.'));
  RandomTensors random(2);
  for (int64_t i = 0; i < kRows; ++i) {
    for (float& x : logits[i]) x = static_cast<float>(random.Real(-5, 0));
    held[i].replace(0, kBegin, "1s");
  }
  const AttentionInputs in = InputsWithLogits(logits);
  const Mask mask = Sampled(*Sampler("2", "2", "3", "hub"), in, MaskFromRows(held));
  const at::Tensor weights = mask.ToDense();

  at::manual_seed(1);
  const at::Tensor draws = at::randint(kBegin, kEnd, {kRows, kBase}, at::kLong);
  int64_t above_base = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    const double top = *std::max_element(logits[i].begin(), logits[i].end());
    const auto mass = [&](int64_t key) { return std::exp(logits[i][key] - top); };
    double denominator = mass(0) / (1 + 1e-6) + mass(1) / (0.25 + 1e-6);
    std::set<int64_t> distinct;
    double mean = 0, squares = 0;
    for (int64_t s = 0; s < kBase; ++s) {
      const int64_t key = draws[i][s].item<int64_t>();
      distinct.insert(key);
      mean += mass(key) / kBase;
    }
    for (int64_t s = 0; s < kBase; ++s) {
      const double deviation = mass(draws[i][s].item<int64_t>()) - mean;
      squares += deviation * deviation;
    }
    for (int64_t key : distinct) denominator += mass(key) / (kBase / kRange + 1e-6);
    const int64_t budget = std::max(kBase, HubBudget(std::sqrt(squares / (kBase - 1)), denominator,
                                                     kRange, kEpsilon, kQuantile));
    above_base += budget > kBase;
    const at::Tensor row = weights[0][0][i].narrow(0, kBegin, kKeys - kBegin);
    EXPECT_NEAR(row.max().item<double>(), budget / kRange, 1e-6) << "row " << i;
  }
  EXPECT_GT(above_base, kRows / 5);
}

TEST(AdaptiveSamplingHub, WhatWasKeptStaysAndADrawnKeptKeyIsStillOne) {
  const AttentionInputs in = EqualLogits(1, 8);
  const Mask mask = Sampled(*Sampler("50", "2", "2", "hub"), in, MaskFromRows({"11..11.1"}));
  const std::string row = MaskRow(mask, 0, 0, 0);
  for (size_t kept : {0, 1, 4, 5, 7}) EXPECT_EQ(row[kept], '1') << row;
  EXPECT_EQ(row[6], '.');
}

TEST(AdaptiveSamplingHub, ABaseRateOfZeroGivesBackThePreviousMask) {
  const AttentionInputs in = EqualLogits(1, 8);
  for (const char* base : {"0", "0.0"}) {
    for (const char* estimator : {"hub", "unbiased"}) {
      const auto masker = Sampler(base, "2", "2", estimator);
      EXPECT_EQ(MaskRow(Sampled(*masker, in, MaskFromRows({"1s....1."})), 0, 0, 0), "1s....1.");
      EXPECT_TRUE(Sampled(*masker, in).is_empty());
    }
  }
}

TEST(AdaptiveSamplingHub, HugeLogitsGiveProbabilities) {
  AttentionInputs in = RandomInputs({.queries = 3, .keys = 64});
  in.q = in.q.mul(1000);
  in.k = in.k.mul(1000);
  for (const char* estimator : {"hub", "unbiased"}) {
    const at::Tensor weights = Sampled(*Sampler("0.1", "2", "2", estimator), in).ToDense();
    EXPECT_TRUE(weights.ge(0).logical_and(weights.le(1)).all().item<bool>());
  }
}

}  // namespace
}  // namespace sparse_attention
