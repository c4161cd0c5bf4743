// Methods that score keys select what the research engine selects: the same sets where scores are
// whole numbers, else the same but for keys whose score lies within rounding of the k-th, or of
// where the share of a top-p method is reached.
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/efficient_attention/method_scores.h"
#include "sparse_attention/efficient_attention/method_testing.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

TEST(IndexedMethods, HashAttentionSelectsTheSameSets) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    const EngineCase base = MakeEngineCase(seed, TypeOf(seed), 1500);
    const std::string path = ::testing::TempDir() + "/hash.safetensors";
    WriteHashAttentionFile(path, {{base.inputs.layer, base.inputs.query_heads(),
                                   base.inputs.kv_heads(), base.inputs.dim()}});
    ExpectEnginesAgree(MakeCase(seed, TypeOf(seed),
                                [&](RandomTensors& random) {
                                  return Json{{"type", "hash_attention_top_k"},
                                              {"heavy_size", Heavy(random)},
                                              {"hat_weight_file", path}};
                                }),
                       Agreement::kEqual);
    if (HasFailure()) return;
  }
}

// Whole numbers: the bounds' products are exact.
TEST(IndexedMethods, QuestSelectsTheSamePages) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    MethodCase problem = MakeCase(seed, TypeOf(seed), [](RandomTensors& random) {
      return Json{{"type", "quest_top_k"},
                  {"heavy_size", Heavy(random)},
                  {"page_size", random.OneOf<int64_t>({1, 4, 16, 24})}};
    });
    problem.pipeline["group_reduce"] = seed % 2 == 0 ? "max" : "sum";
    for (AttentionInputs& step : problem.steps) step.q = step.q.round();
    const at::Tensor k = problem.steps.back().k.round();
    for (AttentionInputs& step : problem.steps) step.k = k.narrow(2, 0, step.keys());
    ExpectEnginesAgree(problem, Agreement::kEqual);
    if (HasFailure()) return;
  }
}

TEST(IndexedMethods, OracleTopPKeepsTheSameShareOfTheMassButForRounding) {
  int64_t rows = 0, differing = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    MethodCase problem = MakeCase(seed, TypeOf(seed), [](RandomTensors& random) {
      return Json{{"type", "oracle_top_p"},
                  {"top_p", random.Chance(0.2) ? random.OneOf<double>({0, 0.999, 1})
                                               : random.Real(0.01, 0.99)},
                  {"threshold_rule", random.OneOf<std::string>({"greater", "at_least"})},
                  {"coverage", random.OneOf<std::string>({"residual", "total"})}};
    });
    RandomTensors random(seed + 7000);
    const double spread =
        random.OneOf<double>({1, 1, 4});  // flat rows, and rows with few heavy keys
    for (AttentionInputs& step : problem.steps) step.q = step.q.mul(spread);
    Json& maskers = problem.pipeline["maskers"];
    if (random.Chance(0.4)) {  // keys held here and there
      maskers.insert(maskers.end() - 1,
                     Json{{"type", "oracle_top_k"}, {"heavy_size", Heavy(random)}});
    }
    Json before = problem.pipeline;
    before["maskers"].erase(maskers.size() - 1);
    SA_ASSERT_OK_AND_ASSIGN(const auto earlier, EfficientFromJson(before));
    AttentionSession session;
    ForEachStep(problem, [&](const AttentionInputs& step, const at::Tensor& selected,
                             const at::Tensor& wanted) {
      at::Tensor held = at::zeros(selected.sizes(), at::kBool);
      if (!before["maskers"].empty()) {
        SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result,
                                RunEfficient(*earlier, step, &session));
        held = result.mask.ToActive();
      }
      EXPECT_FALSE(held.logical_and(selected.logical_not()).any().item<bool>());
      const at::Tensor differs = selected.ne(wanted).any(-1);
      const at::Tensor wrong = NotTopP(selected.logical_and(held.logical_not()), held, step,
                                       problem.pipeline, problem.pipeline["maskers"].back(), 2e-5);
      rows += differs.numel();
      differing += differs.sum().item<int64_t>();
      EXPECT_FALSE(differs.logical_and(wrong).any().item<bool>())
          << step.keys() << " keys, " << differs.logical_and(wrong).sum().item<int64_t>()
          << " rows differ by more than rounding";
    });
    if (HasFailure()) return;
  }
  EXPECT_LE(differing, rows / 1000) << "rounding decides more rows than it can";
}

// What the pipeline keeps of keys with these logits, for one query.
std::string KeptOf(const std::vector<float>& logits, const Json& maskers) {
  AttentionInputs in;
  const int64_t keys = static_cast<int64_t>(logits.size());
  in.q = at::zeros({1, 1, 1, 32});
  in.q.select(3, 0).fill_(1);
  in.k = at::zeros({1, 1, keys, 32});
  for (int64_t j = 0; j < keys; ++j) in.k.data_ptr<float>()[j * 32] = logits[j];
  in.v = at::zeros({1, 1, keys, 32});
  in.scale = 1;
  const auto efficient = EfficientFromJson({{"maskers", maskers}});
  SA_CHECK_OK(efficient);
  AttentionSession session;
  const auto result = RunEfficient(**efficient, in, &session);
  SA_CHECK_OK(result);
  const at::Tensor kept = result->mask.ToActive().flatten();
  std::string text;
  for (int64_t j = 0; j < keys; ++j) text += kept[j].item<bool>() ? '1' : '.';
  return text;
}

Json TopP(double top_p, const char* rule = "greater", const char* coverage = "residual") {
  return {
      {"type", "oracle_top_p"}, {"top_p", top_p}, {"threshold_rule", rule}, {"coverage", coverage}};
}

TEST(IndexedMethods, OracleTopPKeepsTiesAndWhatHoldsAllMass) {
  EXPECT_EQ(KeptOf({2, 0, 0, 0, 0, -9}, Json::array({TopP(0.5)})), "1.....");
  EXPECT_EQ(KeptOf({2, 0, 0, 0, 0, -9}, Json::array({TopP(0.8)})), "11111.");
  EXPECT_EQ(KeptOf({3, 1, 3, 0}, Json::array({TopP(0.)})), "1.1.");
  EXPECT_EQ(KeptOf({1, NAN, 3, INFINITY, 2, -INFINITY}, Json::array({TopP(0.2)})), ".1.1..");
  // All of the mass is every key, whatever is lost in the sums.
  EXPECT_EQ(KeptOf({1, 3, 2, -50}, Json::array({TopP(1., "at_least")})), "1111");
}

TEST(IndexedMethods, OracleTopPMeasuresOpenKeysAgainstTheirOwnMaximum) {
  // A key held by a range, or by a bit. exp(-200) is 0 in float32.
  for (const Json& first : {Json{{"type", "sink"}, {"sink_size", 1}},
                            Json{{"type", "oracle_top_k"}, {"heavy_size", 1}}}) {
    const std::vector<float> logits = {200, 0, -1, -9};
    EXPECT_EQ(KeptOf(logits, Json::array({first, TopP(0.9)})), "111.");
    EXPECT_EQ(KeptOf(logits, Json::array({first, TopP(0.9, "greater", "total")})), "1...");
  }
}

TEST(IndexedMethods, OracleTopPCutsByItsRuleWhereAPartialSumEqualsTheShare) {
  // Of logits 0 and -1 the first holds 1 / (1 + e), where e is exp(-1) to a few units in the last
  // place: for one of these shares the rules differ.
  int differ = 0;
  float second = std::exp(-1.f);
  for (int i = 0; i < 4; ++i) second = std::nextafter(second, 0.f);
  for (int i = 0; i < 9; ++i, second = std::nextafter(second, 1.f)) {
    const double share = 1 / (1 + static_cast<double>(second));
    const std::string at_least = KeptOf({0, -1}, Json::array({TopP(share, "at_least")}));
    const std::string greater = KeptOf({0, -1}, Json::array({TopP(share, "greater")}));
    if (at_least == greater) continue;
    EXPECT_EQ(at_least, "1.");
    EXPECT_EQ(greater, "11");
    ++differ;
  }
  EXPECT_EQ(differ, 1);
}

TEST(IndexedMethods, PqCacheSelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    MethodCase problem = MakeCase(seed, TypeOf(seed), [](RandomTensors& random) {
      return Json{{"type", "pq_cache"},
                  {"heavy_size", Heavy(random)},
                  {"pq_group_factor", random.Integer(1, 4)},
                  {"pq_bits", random.OneOf<int64_t>({2, 4, 6, 9})},
                  {"kmeans_iter", 3},
                  {"init_offset", random.OneOf<int64_t>({0, 0, 7})},
                  {"metric", random.Chance(0.3) ? "ip" : "euclidean"}};
    });
    problem.pipeline["selection"] = "query_head";
    ExpectEnginesAgree(problem, Agreement::kButForRounding);
    if (HasFailure()) return;
  }
}

TEST(IndexedMethods, DoubleSparsitySelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const EngineCase base = MakeEngineCase(seed, TypeOf(seed), 1500);
    const int64_t heads = base.inputs.query_heads(), dim = base.inputs.dim();
    const std::string path = ::testing::TempDir() + "/channels.json";
    RandomTensors random(seed + 9000);
    // Lists that the heads of a group share, or lists of their own.
    const int64_t shared_by = random.Chance(0.5) ? base.inputs.group_size() : 1;
    ChannelLists lists;
    for (int64_t head = 0; head < heads; ++head) {
      std::vector<int64_t> order(static_cast<size_t>(dim));
      // 3 divides no dim of these cases.
      for (int64_t c = 0; c < dim; ++c) order[c] = (c * 3 + head / shared_by) % dim;
      lists.push_back(order);
    }
    ChannelFile file;
    SA_ASSERT_OK(file.Set(base.inputs.layer, ChannelSelection::kQueryKey, lists));
    SA_ASSERT_OK(WriteChannelFile(path, file));
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& draws) {
      return Json{{"type", "double_sparsity_top_k"},
                  {"heavy_size", Heavy(draws)},
                  {"sorted_channel_file", path},
                  {"group_factor", draws.OneOf<int64_t>({4, 8, 16, 32})},
                  {"label_bits", draws.OneOf<int64_t>({2, 4, 8, 12, 16})}};
    });
    problem.pipeline["selection"] = "query_head";
    ExpectEnginesAgree(problem, Agreement::kButForRounding);
    if (HasFailure()) return;
  }
}

TEST(IndexedMethods, LightningIndexerSelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const AttentionInputs in = MakeEngineCase(seed, TypeOf(seed), 1500).inputs;
    const std::string path = ::testing::TempDir() + "/indexer.safetensors";
    RandomTensors random(seed + 9000);
    WriteIndexerFile(path, {{.layer = in.layer,
                             .query_heads = in.query_heads(),
                             .kv_heads = in.kv_heads(),
                             .dim = in.dim(),
                             .heads = random.Integer(1, 6),
                             .width = random.OneOf<int64_t>({1, 5, 16, 32, 40})}});
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& draws) {
      return Json{
          {"type", "lightning_indexer"}, {"heavy_size", Heavy(draws)}, {"weight_file", path}};
    });
    if (random.Chance(0.5)) {  // heads of a token side by side
      for (AttentionInputs& step : problem.steps) {
        step.q = step.q.transpose(1, 2).contiguous().transpose(1, 2);
      }
    }
    ExpectEnginesAgree(problem, Agreement::kButForRounding);
    if (HasFailure()) return;
  }
}

TEST(IndexedMethods, SocketSelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const MethodCase problem = MakeCase(seed, TypeOf(seed), [](RandomTensors& random) {
      return Json{{"type", "socket_top_k"},
                  {"heavy_size", Heavy(random)},
                  {"K", random.OneOf<int64_t>({1, 4, 8, 9, 10})},
                  {"L", random.Integer(1, 12)}};
    });
    ExpectEnginesAgree(problem, Agreement::kButForRounding);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sparse_attention
