// Quirks of the Python hub's samplers that are not taken over: each test computes the hub's rule,
// shows what is wrong with it, and gives the same input to this library.
//
//   14  a rate too small for one key                  Decision14_...
//   17  draws with replacement, weight m / K          Decision17_...
//   18  draws hit keys that are held                  Decision18_...
//   19  an empty mask counts as the whole sum         Decision19_...
//   20  base samples larger than their range          Decision20_...
//   21  delta above one half                          Decision21_...
//   22  spread in the type of the inputs              Decision22_...
#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"
#include "sparse_attention/research_attention/maskers/sampling/random_sampling.h"
#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"
#include "sparse_attention/research_attention/maskers/sampling/sampler_testing.h"

namespace sparse_attention {
namespace {

constexpr double kQuantile95 = 1.6448536269514722;  // of a standard normal at 0.95

at::Tensor WeightsOf(const Masker& masker, const AttentionInputs& in, const Mask& previous) {
  const auto mask = masker.AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return mask->ToDense();
}

AttentionInputs EqualLogits(int64_t queries, int64_t keys) {
  return InputsWithLogits(std::vector<std::vector<float>>(queries, std::vector<float>(keys, 0.f)));
}

std::unique_ptr<Masker> Adaptive(int64_t base, double epsilon, double delta,
                                 const char* estimator = "unbiased") {
  return MakeMasker<AdaptiveSampling>(absl::StrCat(
      R"({"init_offset": 0, "local_offset": 0, "base_rate_sampling": )", base, R"(, "epsilon": )",
      epsilon, R"(, "delta": )", delta, R"(, "estimator": ")", estimator, R"("})"));
}

// The hub's budget in float64.
double HubBudget(double quantile, double deviation, double range, double allowed_error) {
  const double root = quantile * deviation * range / std::max(allowed_error, 1e-8);
  return std::clamp(root * root, 1., range);
}

TEST(HubDecisions, Decision14_ARateTooSmallForOneKeyDrawsOne) {
  const AttentionInputs in = EqualLogits(3, 20);
  const int64_t hub_draws = static_cast<int64_t>(0.01 * 20);
  EXPECT_EQ(hub_draws, 0);  // which the hub's mask refuses as a row without columns
  const auto masker = MakeMasker<RandomSampling>(R"({"sampling_rate": 0.01})");
  const at::Tensor ours = WeightsOf(*masker, in, Mask::MakeEmpty(in.mask_shape()));
  EXPECT_TRUE(ours.gt(0).sum(-1).eq(1).all().item<bool>());
  EXPECT_TRUE(ours.sum(-1).eq(1. / 20).all().item<bool>());
}

// Draws `count` of `keys` with replacement in each row; drawn keys get weight count / keys.
at::Tensor HubDraws(int64_t rows, int64_t keys, int64_t count) {
  at::manual_seed(1);
  const at::Tensor drawn = at::randint(keys, {1, 1, rows, count}, at::kLong);
  return at::zeros({1, 1, rows, keys})
      .scatter_(3, drawn, static_cast<double>(count) / static_cast<double>(keys));
}

// A sum of ones, estimated from weights; mean over rows, by the truth.
double MeanEstimate(const at::Tensor& weights) {
  return weights.gt(0).div(weights).nan_to_num(0).sum(-1).mean().item<double>() /
         static_cast<double>(weights.size(-1));
}

TEST(HubDecisions, Decision17_AWeightIsTheProbabilityOfBeingDrawn) {
  const AttentionInputs in = EqualLogits(2000, 100);
  for (const auto& [rate, share] : {std::pair{25, 0.887}, {50, 0.790}, {100, 0.634}}) {
    // (1 - (1 - 1/N)^m) / (m / N) of the truth
    EXPECT_NEAR(MeanEstimate(HubDraws(2000, 100, rate)), share, 0.01);
    const auto masker =
        MakeMasker<RandomSampling>(absl::StrCat(R"({"sampling_rate": )", rate / 100., "}"));
    const at::Tensor ours = WeightsOf(*masker, in, Mask::MakeEmpty(in.mask_shape()));
    EXPECT_NEAR(MeanEstimate(ours), 1, 1e-6);
  }
}

TEST(HubDecisions, Decision18_HeldKeysAreNotDrawnAgain) {
  const AttentionInputs in = EqualLogits(200, 40);
  at::Tensor held = at::zeros({1, 1, 200, 40});
  held.narrow(3, 0, 20).fill_(1);
  const at::Tensor hub = HubDraws(200, 40, 10);
  EXPECT_GT(hub.narrow(3, 0, 20).gt(0).sum().item<int64_t>(), 200 * 3);  // half of all, in vain
  const auto masker = MakeMasker<RandomSampling>(R"({"sampling_rate": 0.5})");
  const at::Tensor ours = WeightsOf(*masker, in, Mask::AdoptDense(held.clone()));
  EXPECT_THAT(ours.narrow(3, 0, 20), TensorEquals(at::ones({1, 1, 200, 20})));
  EXPECT_TRUE(ours.narrow(3, 20, 20).gt(0).sum(-1).eq(10).all().item<bool>());
}

TEST(HubDecisions, Decision19_AnEmptyMaskHoldsNothing) {
  constexpr int64_t kRows = 16, kKeys = 4000, kBase = 100;
  constexpr double kEpsilon = 0.05;
  const std::vector<double> weights = ScoreWeights("lognormal_1", kKeys);
  const at::Tensor w =
      at::tensor(weights, at::kDouble).div(*std::max_element(weights.begin(), weights.end()));
  const double sum = w.sum().item<double>(), deviation = w.std().item<double>();

  // The sum of an empty mask is the full one, and the base sample's estimate comes on top.
  const double right = HubBudget(kQuantile95, deviation, kKeys, kEpsilon * sum);
  const double hub = HubBudget(kQuantile95, deviation, kKeys, kEpsilon * (sum + sum));
  EXPECT_NEAR(hub, right / 4, 1e-6);

  const AttentionInputs in = RepeatedRows(weights, kRows, 0, 1);
  const auto mean_budget = [&](const char* estimator, const Mask& previous) {
    at::manual_seed(1);
    const at::Tensor p = WeightsOf(*Adaptive(kBase, kEpsilon, 0.05, estimator), in, previous);
    return p.amax(-1).mean().item<double>() * kKeys;
  };
  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  const Mask zeros = Mask::AdoptDense(at::zeros({1, 1, kRows, kKeys}));
  EXPECT_NEAR(mean_budget("hub", empty), hub, hub / 3);
  EXPECT_NEAR(mean_budget("hub", zeros), right, right / 3);  // selects as little
  const double ours = mean_budget("unbiased", empty);
  EXPECT_EQ(ours, mean_budget("unbiased", zeros));
  EXPECT_GT(ours, right * 3 / 4);
}

TEST(HubDecisions, Decision20_AProbabilityIsAtMostOne) {
  constexpr int64_t kKeys = 20, kBase = 50;
  const double hub_weight = double{kBase} / kKeys;
  EXPECT_GT(hub_weight, 1);
  // Were all keys drawn, their estimated sum would still be short.
  EXPECT_NEAR(MeanEstimate(at::full({1, 1, 1, kKeys}, hub_weight)), 0.4, 1e-6);
  const AttentionInputs in = EqualLogits(1, kKeys);
  const at::Tensor ours =
      WeightsOf(*Adaptive(kBase, 0.1, 0.1), in, Mask::MakeEmpty(in.mask_shape()));
  EXPECT_THAT(ours, TensorEquals(at::ones({1, 1, 1, kKeys})));
}

TEST(HubDecisions, Decision21_AWeakerPromiseNeverCostsMore) {
  constexpr int64_t kKeys = 2000;
  constexpr double kQuantiles[] = {kQuantile95, 0, -kQuantile95};  // at delta 0.05, 0.5, 0.95
  const auto hub = [&](double quantile) { return HubBudget(quantile, 1, kKeys, 0.05 * kKeys); };
  EXPECT_EQ(hub(kQuantiles[1]), 1);
  EXPECT_EQ(hub(kQuantiles[2]), hub(kQuantiles[0]));  // no promise costs as much as a strong one

  const AttentionInputs in = RepeatedRows(ScoreWeights("lognormal_1", kKeys), 8, 0, 1);
  for (const char* estimator : {"unbiased", "hub"}) {
    const auto budget = [&](double delta) {
      at::manual_seed(1);
      const auto masker = Adaptive(20, 0.05, delta, estimator);
      const Mask zeros = Mask::AdoptDense(at::zeros({1, 1, 8, kKeys}));
      return WeightsOf(*masker, in, zeros).amax(-1).mean().item<double>() * kKeys;
    };
    EXPECT_GT(budget(0.05), budget(0.5)) << estimator;
    EXPECT_GE(budget(0.5), budget(0.95)) << estimator;
  }
}

TEST(HubDecisions, Decision22_TheSpreadIsMeasuredInFloat32) {
  constexpr int64_t kKeys = 1000, kBase = 20;
  AttentionInputs in;  // logits between -0.0015 and 0, exact in bfloat16
  in.scale = 1;
  in.q = at::ones({1, 1, 4, 1}, at::kBFloat16);
  in.k = at::linspace(-0.0015, 0, kKeys).to(at::kBFloat16).view({1, 1, kKeys, 1});
  in.v = in.k;
  const at::Tensor hub = in.k.exp();  // in the type of the inputs: all 1
  EXPECT_EQ(hub.std().item<float>(), 0);
  EXPECT_EQ(HubBudget(kQuantile95, 1e-8, kKeys, 1e-4 * kKeys), 1);

  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  const at::Tensor of_half = WeightsOf(*Adaptive(kBase, 1e-4, 0.05), in, empty);
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) *x = x->to(at::kFloat);
  EXPECT_THAT(of_half, TensorEquals(WeightsOf(*Adaptive(kBase, 1e-4, 0.05), in, empty)));
  const double variance = in.k.exp().var().item<double>();
  const int64_t optimum = OptimalSampleSize(variance, 1, {kKeys, 1e-4 * kKeys, 0.05, 1});
  EXPECT_GT(optimum, 2 * kBase);
  EXPECT_GT(of_half.amax(-1).mean().item<double>() * kKeys, optimum / 2);
}

}  // namespace
}  // namespace sparse_attention
