#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"
#include "sparse_attention/research_attention/maskers/sampling/sampler_testing.h"

namespace sparse_attention {
namespace {

constexpr int64_t kKeys = 8192;
constexpr int64_t kKept = kKeys / 50;  // 2 %, as vAttention's top-k
constexpr int64_t kRows = 10000;
constexpr int64_t kRowsAtOnce = 500;
constexpr int64_t kValueDim = 8;

std::unique_ptr<Masker> Sampler(const std::string& json, MaskerOptions options = {}) {
  auto masker = AdaptiveSamplingDescriptor().create(ParsedJson(json), options);
  SA_CHECK_OK(masker);
  return *std::move(masker);
}

std::string Config(const std::string& base, double epsilon, double delta,
                   const std::string& more = "") {
  return absl::StrCat(R"({"base_rate_sampling": )", base, R"(, "epsilon": )", epsilon,
                      R"(, "delta": )", delta, R"(, "init_offset": 0, "local_offset": 0)", more,
                      "}");
}

// What many independent draws on the same row came to.
struct Trials {
  int64_t failures = 0;        // rows beyond epsilon
  int64_t false_promises = 0;  // of them, rows that said guarantee_met
  int64_t unknown = 0;
  double mean_budget = 0;
  double mean_error = 0;      // of the denominator, relative
  double standard_error = 0;  // of mean_error
};

Trials RunTrials(const std::vector<double>& weights, int64_t kept, const std::string& config,
                 double epsilon, bool judge_output) {
  const auto sampler = Sampler(config);
  const at::Tensor w = at::tensor(weights, at::kDouble);
  const AttentionInputs sample = RepeatedRows(weights, 1, 0, kValueDim);
  const at::Tensor v = sample.v.view({-1, kValueDim}).to(at::kDouble);
  const double denominator = w.sum().item<double>();
  const at::Tensor output = w.matmul(v).div(denominator);
  const Mask previous = kept > 0 ? HeaviestKept(weights, kRowsAtOnce, kept)
                                 : Mask::MakeEmpty({1, 1, kRowsAtOnce, kKeys});
  Trials trials;
  double sum2 = 0;
  for (int64_t first = 0; first < kRows; first += kRowsAtOnce) {
    const AttentionInputs in = RepeatedRows(weights, kRowsAtOnce, first, kValueDim);
    MaskerState state;
    absl::StatusOr<Mask> mask = sampler->AddMask(in, previous, &state);
    SA_CHECK_OK(mask);
    const at::Tensor dense = mask->dense_weights().view({kRowsAtOnce, kKeys}).to(at::kDouble);
    const at::Tensor scaled = at::where(dense.gt(0), w.div(dense), 0.0);
    const at::Tensor estimates = scaled.sum(1);
    const at::Tensor relative = estimates.div(denominator).sub(1);
    trials.mean_error += relative.sum().item<double>() / kRows;
    sum2 += relative.square().sum().item<double>() / kRows;
    const at::Tensor error = judge_output ? scaled.matmul(v)
                                                .div(estimates.unsqueeze(1))
                                                .sub(output)
                                                .norm(2, {1})
                                                .div(output.norm())
                                          : relative.abs();
    const at::Tensor failed = error.gt(epsilon);
    trials.failures += failed.sum().item<int64_t>();
    if (state.step_metrics.empty()) continue;  // the hub's rule reports nothing
    const at::Tensor met = state.step_metrics[1].values.flatten().gt(0);
    trials.false_promises += failed.logical_and(met).sum().item<int64_t>();
    trials.unknown += met.logical_not().sum().item<int64_t>();
    trials.mean_budget += state.step_metrics[0].values.sum().item<double>() / kRows;
  }
  trials.standard_error =
      std::sqrt((sum2 - trials.mean_error * trials.mean_error) / static_cast<double>(kRows));
  return trials;
}

// The budget that the central limit theorem asks for where the whole population is known.
int64_t Optimum(std::vector<double> weights, double epsilon, double delta, bool output) {
  const at::Tensor w = at::tensor(weights, at::kDouble);
  const at::Tensor v =
      RepeatedRows(weights, 1, 0, kValueDim).v.view({-1, kValueDim}).to(at::kDouble);
  const double denominator = w.sum().item<double>();
  const at::Tensor o = w.matmul(v).div(denominator);
  const at::Tensor rest =
      std::get<1>(w.sort(/*stable=*/true, 0, /*descending=*/true)).narrow(0, kKept, kKeys - kKept);
  at::Tensor x = w.index_select(0, rest).unsqueeze(1);
  if (output) x = x.mul(v.index_select(0, rest).sub(o));
  x = x.sub(x.mean(0, true));
  const at::Tensor covariance = x.t().matmul(x).div(static_cast<double>(kKeys - kKept - 1));
  const double trace = covariance.diagonal().sum().item<double>();
  const double trace2 = covariance.square().sum().item<double>();
  const double allowed = epsilon * denominator * (output ? o.norm().item<double>() : 1);
  return OptimalSampleSize(trace, trace * trace / trace2, {kKeys - kKept, allowed, delta, 0});
}

struct Promise {
  const char* distribution;
  const char* base;  // small enough that the budget, not the base sample, decides
  double epsilon;
  double delta;
  bool output;
};

class KeepsItsPromise : public ::testing::TestWithParam<Promise> {};

TEST_P(KeepsItsPromise, AtNoMoreThanTheOptimum) {
  const Promise& p = GetParam();
  const std::vector<double> weights = ScoreWeights(p.distribution, kKeys);
  const Trials trials =
      RunTrials(weights, kKept,
                Config(p.base, p.epsilon, p.delta, p.output ? R"(, "guarantee": "output")" : ""),
                p.epsilon, p.output);
  const int64_t optimum = Optimum(weights, p.epsilon, p.delta, p.output);
  RecordProperty("failures", static_cast<int>(trials.failures));
  RecordProperty("budget_over_optimum", absl::StrCat(trials.mean_budget / optimum));
  std::cout << absl::StrFormat(
      "failures %.4f of %.2f, unknown %.4f, budget %.0f = %.3f of the optimum, mean error %.1f "
      "standard errors\n",
      trials.failures / double{kRows}, p.delta, trials.unknown / double{kRows}, trials.mean_budget,
      trials.mean_budget / optimum, trials.mean_error / trials.standard_error);
  EXPECT_LE(trials.failures, BinomialUpperLimit(kRows, p.delta));
  EXPECT_LE(trials.mean_budget, 1.1 * static_cast<double>(optimum));
  // Neither a promise that is never made nor one that costs nothing.
  EXPECT_LE(trials.unknown, kRows / 100);
  EXPECT_GE(trials.failures, kRows / 1000);
  EXPECT_LE(std::abs(trials.mean_error), 5 * trials.standard_error);
}

INSTANTIATE_TEST_SUITE_P(Denominator, KeepsItsPromise,
                         ::testing::Values(Promise{"uniform", "200", 0.05, 0.05, false},
                                           Promise{"lognormal_1", "320", 0.05, 0.05, false},
                                           Promise{"lognormal_2", "480", 0.05, 0.05, false},
                                           Promise{"two_level", "320", 0.05, 0.05, false},
                                           Promise{"power_law", "320", 0.03, 0.05, false},
                                           Promise{"lognormal_1", "160", 0.1, 0.1, false},
                                           Promise{"two_level", "240", 0.1, 0.2, false}),
                         [](const auto& info) {
                           return absl::StrCat(info.param.distribution, "_", info.index);
                         });

INSTANTIATE_TEST_SUITE_P(Output, KeepsItsPromise,
                         ::testing::Values(Promise{"uniform", "320", 0.05, 0.05, true},
                                           Promise{"lognormal_1", "320", 0.05, 0.05, true},
                                           Promise{"lognormal_2", "640", 0.05, 0.05, true},
                                           Promise{"two_level", "320", 0.05, 0.05, true},
                                           Promise{"power_law", "320", 0.04, 0.05, true}),
                         [](const auto& info) { return std::string(info.param.distribution); });

// The Python hub's one-sided quantile keeps half of the promise.
TEST(AdaptiveSampling, TheHubsRuleBreaksThePromise) {
  at::manual_seed(11);
  const Trials trials =
      RunTrials(ScoreWeights("lognormal_1", kKeys), kKept,
                Config("160", 0.05, 0.05, R"(, "estimator": "hub")"), 0.05, false);
  RecordProperty("failures", static_cast<int>(trials.failures));
  EXPECT_GT(trials.failures, BinomialUpperLimit(kRows, 0.05));
  EXPECT_GT(trials.failures, kRows * 0.08);
}

// Without a masker that keeps the heavy keys, heavy tails are not promised; what is promised is
// kept.
TEST(AdaptiveSampling, StepsOfTheHubsRule) {
  const at::Tensor x = at::tensor({1.f, 2.f, 4.f, 9.f}).view({1, 4});
  const at::Tensor drawn = at::tensor({0, 2, 2}).view({1, 3}).to(at::kLong);
  // 1, 4, 4: mean 3, squares 4 + 1 + 1 over 2.
  EXPECT_NEAR(HubSampleDeviation(x, drawn).item<double>(), std::sqrt(3.), 1e-6);
  EXPECT_NEAR(HubSampleDeviation(x, at::zeros({1, 3}, drawn.options())).item<double>(), 1e-8,
              1e-12);
  const at::Tensor deviation = at::tensor({.05f, 1e-8f, .05f, .05f});
  const at::Tensor total = at::tensor({20.f, 20.f, 0.f, 20.f});
  // (2 . 0.05 . 100 / (0.1 . 20))^2 = 25
  EXPECT_TRUE(
      HubBudget(deviation, total, 2, .1, 100).equal(at::tensor({25, 1, 100, 25}).to(at::kLong)));
  EXPECT_TRUE(HubBudget(deviation, total, -2, .1, 100).equal(at::ones({4}, drawn.options())));
}

TEST(AdaptiveSampling, HeavyTailsAreFlagged) {
  const Trials trials = RunTrials(ScoreWeights("lognormal_2", kKeys), /*kept=*/0,
                                  Config("0.02", 0.05, 0.05), 0.05, false);
  EXPECT_GE(trials.unknown, kRows / 2);
  EXPECT_LE(trials.false_promises, BinomialUpperLimit(kRows, 0.05));
}

// One key with 5 % of the mass, nearly always missed by the sample: every row must say so.
TEST(AdaptiveSampling, ARareHeavyKeyIsFlagged) {
  std::vector<double> weights = ScoreWeights("uniform", kKeys);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  weights[kKeys / 2] = sum / 19;
  const Trials trials =
      RunTrials(weights, /*kept=*/0, Config("0.02", 0.05, 0.05), 0.05, /*judge_output=*/false);
  EXPECT_EQ(trials.unknown, kRows);
}

TEST(AdaptiveSampling, EveryKeyIsDrawnAsOftenAsItsWeightsSay) {
  // The mean of 1 / weight over the rows that hold a key, 0 elsewhere, is 1 for every key: 6
  // standard deviations.
  const std::vector<double> weights = ScoreWeights("lognormal_1", 400);
  const AttentionInputs in = RepeatedRows(weights, kRows, 0, 1);
  const auto sampler = Sampler(Config("20", 0.2, 0.2));
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  const at::Tensor dense = mask.ToDense().view({kRows, 400}).to(at::kDouble);
  const at::Tensor inverse = at::where(dense.gt(0), dense.reciprocal(), 0.0);
  const at::Tensor z =
      inverse.mean(0).sub(1).div(inverse.std(0).div(std::sqrt(static_cast<double>(kRows))));
  EXPECT_LT(z.abs().max().item<double>(), 6);
  EXPECT_GT(dense.gt(0).to(at::kDouble).mean().item<double>(), 0.05);
  EXPECT_LT(dense.gt(0).to(at::kDouble).mean().item<double>(), 0.95);
}

TEST(AdaptiveSampling, NeverTouchesWhatIsKeptOrOutsideItsRange) {
  AttentionInputs in = RandomInputs({.queries = 2, .keys = 400});
  in.causal = true;
  const Mask previous = *Mask::FromRowIndices(
      in.mask_shape(), at::arange(100, 150).expand({1, 4, 2, 50}).contiguous());
  const auto sampler = Sampler(
      R"({"base_rate_sampling": 0.1, "epsilon": 0.3, "delta": 0.3, "init_offset": 0.1, "local_offset": 20})");
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, sampler->AddMask(in, previous, nullptr));
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t visible = 399 + i;
    int64_t sampled = 0;
    for (int64_t key : ActiveKeys(mask, 0, 3, i)) {
      if (key >= 100 && key < 150) continue;
      ++sampled;
      EXPECT_GE(key, 39);  // int(0.1 * 399) and int(0.1 * 400) from the second query on
      EXPECT_LT(key, visible - 20);
    }
    EXPECT_GE(sampled, 25);
    EXPECT_EQ(mask.ToDense()[0][3][i].narrow(0, 100, 50).eq(1).all().item<bool>(), true);
  }
}

// Nor does what it holds decide how many others are read.
TEST(AdaptiveSampling, AKeyOutsideItsRangeThatIsNoNumberHasNoEffect) {
  const AttentionInputs in = RandomInputs({.queries = 1, .keys = 2000});
  in.v.add_(3);  // an output that is more than noise, of which all keys would be read
  for (const char* guarantee : {"denominator", "output"}) {
    SCOPED_TRACE(guarantee);
    Json config = ParsedJson(Config("100", 0.3, 0.1));
    config["guarantee"] = guarantee;
    config["init_offset"] = 1;
    const auto sampler = Sampler(config.dump());
    const Mask empty = Mask::MakeEmpty(in.mask_shape());
    SA_ASSERT_OK_AND_ASSIGN(const Mask clean, sampler->AddMask(in, empty, nullptr));
    EXPECT_LT(ActiveKeys(clean, 0, 0, 0).size(), 1999u);
    AttentionInputs spoilt = in;
    spoilt.k = in.k.clone();
    spoilt.k.select(2, 0).fill_(NAN);
    SA_ASSERT_OK_AND_ASSIGN(const Mask mask, sampler->AddMask(spoilt, empty, nullptr));
    EXPECT_EQ(ActiveKeys(mask, 0, 0, 0), ActiveKeys(clean, 0, 0, 0));
  }
}

TEST(AdaptiveSampling, KeepsEverythingWhereTheBaseSampleCoversTheRow) {
  const AttentionInputs in = RandomInputs({.keys = 24});
  const auto sampler = Sampler(Config("24", 0.1, 0.1));
  MaskerState state;
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          sampler->AddMask(in, Mask::MakeEmpty(in.mask_shape()), &state));
  EXPECT_TRUE(mask.Normalized().is_full());
  EXPECT_TRUE(state.step_metrics[1].values.eq(1).all().item<bool>());
}

TEST(AdaptiveSampling, ABaseRateOfZeroSwitchesItOff) {
  const AttentionInputs in = RandomInputs({.keys = 24});
  for (const char* base : {"0", "0.0"}) {
    SA_ASSERT_OK_AND_ASSIGN(
        const Mask mask,
        Sampler(Config(base, 0.1, 0.1))->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
    EXPECT_TRUE(mask.is_empty());
  }
}

TEST(AdaptiveSampling, AGroupSharesItsDrawsAndTakesTheLargestBudget) {
  const AttentionInputs in = RandomInputs({.heads = 4, .kv_heads = 2, .queries = 1, .keys = 2000});
  MaskerState alone_state, group_state;
  const std::string config = Config("50", 0.2, 0.1);
  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  SA_ASSERT_OK_AND_ASSIGN(const Mask alone, Sampler(config)->AddMask(in, empty, &alone_state));
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask group,
      Sampler(config, {.selection = Selection::kKvGroup})->AddMask(in, empty, &group_state));
  EXPECT_NE(ActiveKeys(alone, 0, 0, 0), ActiveKeys(alone, 0, 1, 0));
  EXPECT_EQ(ActiveKeys(group, 0, 0, 0), ActiveKeys(group, 0, 1, 0));
  EXPECT_NE(ActiveKeys(group, 0, 0, 0), ActiveKeys(group, 0, 2, 0));
  const at::Tensor budgets = group_state.step_metrics[0].values.flatten();
  EXPECT_EQ(budgets[0].item<float>(), budgets[1].item<float>());
}

TEST(AdaptiveSampling, TheHubsRuleRefusesWhatItCannotDo) {
  const Json hub = ParsedJson(Config("0.1", 0.1, 0.1, R"(, "estimator": "hub")"));
  EXPECT_THAT(AdaptiveSamplingDescriptor().create(hub, {.selection = Selection::kKvGroup}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("adaptive_sampling.estimator must be \"unbiased\"")));
  EXPECT_THAT(
      AdaptiveSamplingDescriptor().create(
          ParsedJson(Config("0.1", 0.1, 0.1, R"(, "estimator": "hub", "guarantee": "output")")),
          {}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               ::testing::HasSubstr("guarantee must be \"denominator\"")));
  EXPECT_THAT(AdaptiveSamplingDescriptor().create(hub, {}), IsOk());
}

TEST(AdaptiveSampling, FieldRules) {
  const auto error = [](const char* field, const char* value) {
    Json json = ParsedJson(Config("0.1", 0.1, 0.1));
    json[field] = ParsedJson(value);
    return AdaptiveSamplingDescriptor().create(json, {}).status();
  };
  using ::testing::HasSubstr;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(error("base_rate_sampling", "1.0"),
              StatusIs(kInvalid, HasSubstr("base_rate_sampling must be in [0, 1) if float")));
  EXPECT_THAT(error("base_rate_sampling", "-1"),
              StatusIs(kInvalid, HasSubstr("base_rate_sampling must be non-negative if int")));
  EXPECT_THAT(error("base_rate_sampling", "\"x\""), StatusIs(kInvalid));
  for (const char* field : {"epsilon", "delta"}) {
    EXPECT_THAT(error(field, "0.0"),
                StatusIs(kInvalid, HasSubstr(absl::StrCat(field, " must be in (0, 1)"))));
    EXPECT_THAT(error(field, "1.0"), StatusIs(kInvalid));
  }
  for (const char* field : {"init_offset", "local_offset"}) {
    EXPECT_THAT(error(field, "1.5"),
                StatusIs(kInvalid, HasSubstr(absl::StrCat(field, " must be in [0, 1] if float"))));
    EXPECT_THAT(error(field, "-2"),
                StatusIs(kInvalid, HasSubstr(absl::StrCat(field, " must be non-negative if int"))));
    EXPECT_THAT(error(field, "1.0"), IsOk());
  }
}

}  // namespace
}  // namespace sparse_attention
