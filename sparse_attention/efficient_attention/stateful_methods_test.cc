// Methods whose choice rests on earlier steps, or on other keys: what SnapKV's prompt kept, the
// centre and radius that MagicPIG's keys were hashed with.
#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/numeric_law.h"
#include "sparse_attention/attention/random_attention.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/efficient_attention/method_scores.h"
#include "sparse_attention/efficient_attention/method_testing.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/mips_transform.h"

namespace sparse_attention {
namespace {

MethodCase SnapKvCase(uint64_t seed) {
  return MakeCase(seed, TypeOf(seed), [](RandomTensors& random) {
    return Json{{"type", "snap_kv"},
                {"heavy_size", Heavy(random)},
                {"window_size", random.Integer(1, 6)},
                {"kernel_size", random.OneOf<int64_t>({1, 3, 5, 9})}};
  });
}

TEST(StatefulMethods, SnapKvSelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    ExpectEnginesAgree(SnapKvCase(seed), Agreement::kButForRounding);
    if (HasFailure()) return;
  }
}

// The same sets, and the probabilities of the definition within what the rounding of a cosine makes
// of them.
TEST(StatefulMethods, MagicPigSamplesTheSameKeysWithTheirProbabilities) {
  int64_t sampled = 0, refits = 0;
  std::vector<at::Tensor> outs[3], references[3], baselines[3];
  for (uint64_t seed = 0; seed < 120; ++seed) {
    int64_t tables = 0, bits = 0;
    bool centred = true;
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& random) {
      tables = random.Integer(1, 30);
      bits = random.OneOf<int64_t>({1, 4, 8, 9, 16, 17, 33, 64});
      centred = random.Chance(0.7);
      return Json{{"type", "magic_pig"},
                  {"lsh_l", tables},
                  {"lsh_k", bits},
                  {"center", centred},
                  {"seed", random.Integer(0, 99)}};
    });
    RandomTensors random(seed + 8000);
    if (random.Chance(0.4)) {  // keys held here and there, the same in both engines
      const AttentionInputs& in = problem.steps.front();
      const std::string path = ::testing::TempDir() + "/hash.safetensors";
      WriteHashAttentionFile(path, {{in.layer, in.query_heads(), in.kv_heads(), in.dim()}});
      Json& maskers = problem.pipeline["maskers"];
      maskers.insert(maskers.end() - 1, Json{{"type", "hash_attention_top_k"},
                                             {"heavy_size", Heavy(random)},
                                             {"hat_weight_file", path}});
    }
    if (random.Chance(0.3)) {  // the latest key of a head lies far out
      problem.steps.back().k.select(0, 0).select(0, 0).select(0, -1).mul_(3);
    }
    for (AttentionInputs& step : problem.steps) {
      if (random.Chance(0.4)) continue;
      // Queries near keys share buckets of many planes.
      const int64_t first = random.Integer(0, step.keys() - step.queries());
      step.q = step.k.narrow(2, first, step.queries())
                   .repeat_interleave(step.group_size(), 1)
                   .add(random.Normal(step.q.sizes(), step.q.scalar_type()), 0.2);
    }
    const bool by_group = problem.pipeline["selection"] == "kv_group";
    SCOPED_TRACE(problem.text + "\n" + problem.pipeline.dump());
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(problem.pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(problem.pipeline));
    AttentionSession research_session, session;
    Spheres spheres(centred);
    at::Tensor radius;
    for (const AttentionInputs& step : problem.steps) {
      SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected,
                              research->Run(step, &research_session));
      SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result,
                              RunEfficient(*efficient, step, &session));
      const at::Tensor wanted = VisibleWeights(step, expected.mask);
      const at::Tensor weights = result.mask.ToDense();
      EXPECT_TRUE(weights.gt(0).equal(wanted.gt(0)))
          << weights.gt(0).ne(wanted.gt(0)).sum().item<int64_t>() << " keys differ";
      const MipsTransform& sphere = spheres.Follow(step.k);
      refits += radius.defined() && !radius.equal(sphere.radius);
      radius = sphere.radius;
      const at::Tensor cosines = HashedCosines(step, sphere, by_group);
      const double rounding = CosineRounding(step, by_group);
      const at::Tensor least = CollisionProbability(cosines.sub(rounding), bits, tables);
      const at::Tensor most = CollisionProbability(cosines.add(rounding), bits, tables);
      const at::Tensor drawn = weights.gt(0).logical_and(weights.lt(1));
      const at::Tensor wrong = weights.lt(least.mul(1 - 0x1p-22))
                                   .logical_or_(weights.gt(most.mul(1 + 0x1p-22)))
                                   .logical_and_(drawn);
      EXPECT_EQ(wrong.sum().item<int64_t>(), 0) << "probabilities";
      sampled += drawn.sum().item<int64_t>();
      if (HasFailure()) return;
      SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference,
                              ReferenceAttention(step, result.mask));
      outs[seed % 3].push_back(result.out.flatten());
      references[seed % 3].push_back(reference.out.flatten());
      baselines[seed % 3].push_back(PlainAttention(step, result.mask).flatten());
    }
  }
  EXPECT_GT(sampled, 100000);
  EXPECT_GT(refits, 5);
  for (int type = 0; type < 3; ++type) {
    EXPECT_THAT(at::cat(outs[type]),
                ObeysNumericLaw(at::cat(references[type]), at::cat(baselines[type])));
  }
}

TEST(StatefulMethods, AKeyThatIsNoNumberIsNotSampled) {
  RandomTensors random(6);
  AttentionInputs in;
  in.q = random.Normal({1, 4, 1, 32});
  in.k = random.Normal({1, 2, 70, 32});
  in.v = random.Normal({1, 2, 70, 32});
  in.k.select(2, 33).select(2, 7).fill_(NAN);
  for (const char* selection : {"query_head", "kv_group"}) {
    // Nearly every query has bucket 0, where such a key lies, in one of many tables.
    const Json pipeline = {{"selection", selection},
                           {"maskers", {{{"type", "magic_pig"}, {"lsh_l", 9}, {"lsh_k", 1}}}}};
    SCOPED_TRACE(pipeline.dump());
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(pipeline));
    AttentionSession research_session, session;
    MemorySink expected, sink;
    SA_ASSERT_OK(research->Run(in, &research_session, &expected));
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, efficient->Run(in, &session, &sink));
    EXPECT_TRUE(out.isfinite().all().item<bool>());
    EXPECT_EQ(sink.Values(kResearchAttentionDensity), expected.Values(kResearchAttentionDensity));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, in, &session));
    EXPECT_FALSE(result.mask.ToActive().select(3, 33).any().item<bool>());
  }
}

// A plan is made anew when the keys have doubled; what the first steps decided stays.
TEST(StatefulMethods, AnOutgrownPlanRemembers) {
  RandomTensors random(4);
  AttentionInputs all;
  all.q = random.Normal({2, 4, 3, 32});
  all.k = random.Normal({2, 2, 2100, 32});
  all.v = random.Normal({2, 2, 2100, 32});
  all.causal = true;
  all.k.narrow(2, 500, 1600).mul_(0.5);  // within the radius, off the centre
  all.k.narrow(2, 500, 1600).add_(0.3);
  MethodCase problem;
  for (const int64_t keys : {500, 501, 1100, 1101, 2100}) {
    AttentionInputs in = all;
    in.k = all.k.narrow(2, 0, keys);
    in.v = all.v.narrow(2, 0, keys);
    in.q = all.q.narrow(2, 0, keys == 500 ? 3 : 1);
    problem.steps.push_back(in);
  }
  for (const char* selection : {"query_head", "kv_group"}) {
    problem.pipeline = {{"selection", selection},
                        {"group_reduce", "mean"},
                        {"maskers", {{{"type", "magic_pig"}, {"lsh_l", 6}, {"lsh_k", 4}}}}};
    ExpectEnginesAgree(problem, Agreement::kEqual);
    problem.pipeline["maskers"] = {
        {{"type", "snap_kv"}, {"heavy_size", 40}, {"window_size", 2}, {"kernel_size", 3}}};
    ExpectEnginesAgree(problem, Agreement::kButForRounding);
  }
}

// One context, several questions; then keys that differ from those of an earlier step.
TEST(StatefulMethods, WhatStepsRememberIsCutBackWithTheKeys) {
  RandomTensors random(5);
  AttentionInputs all;
  all.q = random.Normal({1, 4, 4, 32});
  all.k = random.Normal({1, 2, 330, 32});
  all.v = random.Normal({1, 2, 330, 32});
  all.causal = true;
  const auto step = [&](int64_t keys, int64_t queries, int64_t changed_from = 1000) {
    AttentionInputs in = all;
    in.k = all.k.narrow(2, 0, keys).clone();
    if (changed_from < keys) in.k.narrow(2, changed_from, keys - changed_from).mul_(-0.5);
    in.v = all.v.narrow(2, 0, keys);
    in.q = all.q.narrow(2, 0, queries);
    return in;
  };
  for (const Json& masker :
       {Json{{"type", "magic_pig"}, {"lsh_l", 6}, {"lsh_k", 4}},
        Json{{"type", "snap_kv"}, {"heavy_size", 20}, {"window_size", 2}, {"kernel_size", 1}}}) {
    const Json pipeline = {{"maskers", {masker}}};
    SCOPED_TRACE(pipeline.dump());
    SA_ASSERT_OK_AND_ASSIGN(const auto research, ResearchFromJson(pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto efficient, EfficientFromJson(pipeline));
    AttentionSession research_session, session;
    const auto expect_same = [&](const AttentionInputs& in) {
      SA_ASSERT_OK_AND_ASSIGN(const AttentionResult expected, research->Run(in, &research_session));
      SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, RunEfficient(*efficient, in, &session));
      EXPECT_TRUE(result.mask.ToActive().equal(VisibleWeights(in, expected.mask).gt(0)))
          << in.keys() << " keys";
    };
    const AttentionInputs context = step(300, 0);
    SA_ASSERT_OK(research->Prepare(context, &research_session));
    SA_ASSERT_OK(efficient->Prepare(context, &session));
    expect_same(step(304, 4));
    expect_same(step(305, 1));
    research_session.Rewind();
    session.Rewind();
    expect_same(step(301, 1, 300));  // a question of one token
    expect_same(step(302, 1, 300));
    research_session.Rewind();
    session.Rewind();
    expect_same(step(310, 1, 300));  // behind what the first question reached
    expect_same(step(290, 4, 240));  // another sequence from key 240 on
    expect_same(step(291, 1, 240));
    expect_same(step(330, 1, 240));
  }
}

}  // namespace
}  // namespace sparse_attention
