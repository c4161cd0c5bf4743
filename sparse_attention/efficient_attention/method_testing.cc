#include "sparse_attention/efficient_attention/method_testing.h"

#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/engine_testing.h"

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

// Selections may differ where scores [batch, heads, queries, keys] are as good as equal.
void ExpectSameButForTies(const at::Tensor& selected, const at::Tensor& expected,
                          const at::Tensor& scores, double rounding) {
  const at::Tensor differs = selected.ne(expected);
  if (!differs.any().item<bool>()) return;
  EXPECT_TRUE(selected.sum(-1).equal(expected.sum(-1))) << "budgets differ";
  // The lowest score that both select marks the place of the k-th.
  const at::Tensor extra = selected.logical_and(expected.logical_not());
  const at::Tensor missing = expected.logical_and(selected.logical_not());
  const at::Tensor worst = at::where(extra, scores, kInfinity).amin(-1);
  const at::Tensor best = at::where(missing, scores, -kInfinity).amax(-1);
  const at::Tensor gap = at::where(differs.any(-1), best.sub(worst), 0);
  EXPECT_LE(gap.max().item<double>(), rounding) << "a key that is clearly better was left out";
}

}  // namespace

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

void ExpectEnginesAgree(const MethodCase& problem, const ScoresOf& scores) {
  ForEachStep(problem, [&](const AttentionInputs& step, const at::Tensor& selected,
                           const at::Tensor& wanted) {
    if (scores == nullptr) {
      EXPECT_TRUE(selected.equal(wanted))
          << step.keys() << " keys, " << selected.ne(wanted).sum().item<int64_t>() << " differ";
    } else {
      const at::Tensor s = scores(step);
      ExpectSameButForTies(selected, wanted, s, 1e-5 * s.abs().max().item<double>() + 1e-12);
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

at::Tensor OfGroups(const at::Tensor& x, const AttentionInputs& step, const Json& pipeline) {
  if (pipeline["selection"] == "query_head") return x;
  const at::Tensor heads = x.unflatten(1, {step.kv_heads(), step.group_size()});
  const std::string reduce = pipeline["group_reduce"];
  const at::Tensor one = reduce == "max"   ? heads.amax(2)
                         : reduce == "sum" ? heads.sum(2)
                                           : heads.mean(2);
  return one.repeat_interleave(step.group_size(), 1);
}

}  // namespace sparse_attention
