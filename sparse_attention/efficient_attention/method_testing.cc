#include "sparse_attention/efficient_attention/method_testing.h"

#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/efficient_attention/method_scores.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A prompt and some tokens behind it, as steps of one session over one growing cache.
std::vector<AttentionInputs> Steps(const AttentionInputs& all, RandomTensors& random) {
  std::vector<AttentionInputs> steps;
  const int64_t keys = all.keys();
  int64_t length = std::max<int64_t>(1, keys - random.Integer(0, 4));
  while (true) {
    AttentionInputs in = all;
    const int64_t queries = std::min(length, random.Chance(0.3) ? random.Integer(1, 5) : 1);
    in.k = all.k.narrow(2, 0, length);
    in.v = all.v.narrow(2, 0, length);
    in.q = random.Normal({all.batch(), all.query_heads(), queries, all.dim()}, all.q.scalar_type());
    in.causal = true;
    steps.push_back(in);
    if (length == keys) return steps;
    length = std::min(keys, length + random.Integer(1, 2));
  }
}

}  // namespace

void ExpectSameButForTies(const at::Tensor& selected, const at::Tensor& expected,
                          const at::Tensor& scores) {
  const at::Tensor differs = selected.ne(expected);
  if (!differs.any().item<bool>()) return;
  const double rounding = 1e-5 * scores.abs().max().item<double>() + 1e-12;
  EXPECT_TRUE(selected.sum(-1).equal(expected.sum(-1))) << "budgets differ";
  // The lowest score that both select marks the place of the k-th.
  const at::Tensor extra = selected.logical_and(expected.logical_not());
  const at::Tensor missing = expected.logical_and(selected.logical_not());
  const at::Tensor worst = at::where(extra, scores, kInfinity).amin(-1);
  const at::Tensor best = at::where(missing, scores, -kInfinity).amax(-1);
  const at::Tensor gap = at::where(differs.any(-1), best.sub(worst), 0);
  EXPECT_LE(gap.max().item<double>(), rounding) << "a key that is clearly better was left out";
}

void ForEachStep(const MethodCase& problem, const Compare& compare) {
  SCOPED_TRACE(problem.text + "\n" + problem.pipeline.dump());
  SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(problem.pipeline));
  SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(problem.pipeline));
  AttentionSession research_session, session;
  for (const AttentionInputs& step : problem.steps) {
    SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected, research->Run(step, &research_session));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, step, &session));
    const at::Tensor selected = result.mask.ToActive();
    compare(step, selected, VisibleWeights(step, expected.mask).gt(0));
    if (::testing::Test::HasFailure()) return;
  }
}

void ExpectEnginesAgree(const MethodCase& problem, Agreement agreement) {
  std::vector<AttentionInputs> history;
  ForEachStep(problem, [&](const AttentionInputs& step, const at::Tensor& selected,
                           const at::Tensor& wanted) {
    history.push_back(step);
    if (agreement == Agreement::kEqual) {
      EXPECT_TRUE(selected.equal(wanted))
          << step.keys() << " keys, " << selected.ne(wanted).sum().item<int64_t>() << " differ";
    } else {
      ExpectSameButForTies(
          selected, wanted,
          MethodScores(problem.pipeline, problem.pipeline["maskers"].back(), history));
    }
  });
}

MethodCase MakeCase(uint64_t seed, at::ScalarType type,
                    const std::function<Json(RandomTensors&)>& method) {
  const EngineCase base = MakeEngineCase(seed, type, 1500);
  RandomTensors random(seed + 5000);
  MethodCase problem;
  problem.text = base.text;
  problem.steps = Steps(base.inputs, random);
  problem.pipeline = {{"selection", random.Chance(0.5) ? "query_head" : "kv_group"},
                      {"group_reduce", random.OneOf<std::string>({"max", "sum", "mean"})},
                      {"maskers", Json::array()}};
  Json& maskers = problem.pipeline["maskers"];
  if (random.Chance(0.7))
    maskers.push_back({{"type", "sink"}, {"sink_size", random.Integer(1, 40)}});
  if (random.Chance(0.7)) {
    maskers.push_back({{"type", "local"}, {"window_size", random.Integer(1, 40)}});
  }
  maskers.push_back(method(random));
  return problem;
}

Json Heavy(RandomTensors& random) {
  if (random.Chance(0.5)) return random.Integer(1, 300);
  return random.Real(0.01, 0.5);
}

at::ScalarType TypeOf(uint64_t seed) {
  return std::vector<at::ScalarType>{at::kFloat, at::kHalf, at::kBFloat16}[seed % 3];
}

}  // namespace sparse_attention
