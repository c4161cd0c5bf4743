// Methods that score keys select what the research engine selects: the same sets where scores are
// whole numbers, else the same but for keys whose score lies within rounding of the k-th, or of
// where the share of a top-p method is reached.
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
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
#include "sparse_attention/efficient_attention/method_testing.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/indexer_keys.h"
#include "sparse_attention/key_index/indexer_weights.h"
#include "sparse_attention/key_index/label_cache.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

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
                       nullptr);
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
    ExpectEnginesAgree(problem, nullptr);
    if (HasFailure()) return;
  }
}

// Rows of `selected`, keys added to those `held`, that are not the fewest keys with a share of the
// mass, which is known to `rounding`.
at::Tensor NotTopP(const at::Tensor& selected, const at::Tensor& held, const AttentionInputs& step,
                   const Json& pipeline, double rounding) {
  const Json& method = pipeline["maskers"].back();
  const double top_p = method["top_p"];
  const bool total = method["coverage"] == "total";
  at::Tensor logits = ComputeLogits(step).to(at::kDouble);
  at::Tensor open = held.logical_not();
  if (const auto visible = VisibleKeys(step)) open = open.logical_and(*visible);
  if (!total) logits = logits.masked_fill(open.logical_not(), -kInfinity);
  const at::Tensor mass = logits.softmax(-1).nan_to_num(0);
  const at::Tensor of_set = OfGroups(mass, step, pipeline);
  const auto sum_of = [&](const at::Tensor& keys) { return at::where(keys, of_set, 0.).sum(-1); };
  const at::Tensor kept_before = OfGroups(at::where(open, 0., mass).sum(-1), step, pipeline);
  at::Tensor wanted = sum_of(open).mul(top_p);
  if (total) wanted = wanted.add(kept_before.mul(top_p - 1));
  const at::Tensor least = at::where(selected, of_set, kInfinity).amin(-1);
  const at::Tensor heavier = selected.logical_and(of_set.gt(least.mul(1 + rounding).unsqueeze(-1)));
  const at::Tensor left = at::where(open.logical_and(selected.logical_not()), of_set, -1.).amax(-1);
  const at::Tensor too_few = sum_of(selected).lt(wanted.sub(rounding));
  const at::Tensor too_many =
      selected.any(-1).logical_and(sum_of(heavier).gt(wanted.add(rounding)));
  const at::Tensor lighter =
      selected.any(-1).logical_and(left.gt(least.mul(1 + rounding).add(1e-30)));
  return too_few.logical_or(too_many).logical_or(lighter);
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
      const at::Tensor wrong =
          NotTopP(selected.logical_and(held.logical_not()), held, step, problem.pipeline, 2e-5);
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
    int64_t subvectors = 0, bits = 0, offset = 0;
    bool inner = false;
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& random) {
      subvectors = random.Integer(1, 4);
      bits = random.OneOf<int64_t>({2, 4, 6, 9});
      offset = random.OneOf<int64_t>({0, 0, 7});
      inner = random.Chance(0.3);
      return Json{{"type", "pq_cache"},
                  {"heavy_size", Heavy(random)},
                  {"pq_group_factor", subvectors},
                  {"pq_bits", bits},
                  {"kmeans_iter", 3},
                  {"init_offset", offset},
                  {"metric", inner ? "ip" : "euclidean"}};
    });
    problem.pipeline["selection"] = "query_head";
    ExpectEnginesAgree(problem, [&](const AttentionInputs& step) -> at::Tensor {
      PqOptions options;
      options.subvectors = subvectors;
      options.bits = bits;
      options.iterations = 3;
      options.inner_product = inner;
      options.layer = step.layer;
      const int64_t first = problem.steps.front().keys();
      // Trained on the first step that has enough keys.
      int64_t trained = first;
      for (const AttentionInputs& s : problem.steps) {
        trained = s.keys();
        if (s.keys() > offset + (int64_t{1} << bits)) break;
      }
      at::Tensor scores =
          at::zeros({step.batch(), step.query_heads(), step.queries(), step.keys()}, at::kFloat);
      if (step.keys() <= offset + (int64_t{1} << bits)) return scores;
      PqCodebook codebook(step.k.narrow(2, offset, trained - offset), options);
      codebook.Extend(step.k.narrow(2, offset, step.keys() - offset), trained - offset);
      scores.narrow(3, offset, step.keys() - offset).copy_(codebook.Scores(step.q));
      return scores;
    });
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
    int64_t factor = 0, bits = 0;
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& draws) {
      factor = draws.OneOf<int64_t>({4, 8, 16, 32});
      bits = draws.OneOf<int64_t>({2, 4, 8, 12, 16});
      return Json{{"type", "double_sparsity_top_k"},
                  {"heavy_size", Heavy(draws)},
                  {"sorted_channel_file", path},
                  {"group_factor", factor},
                  {"label_bits", bits}};
    });
    problem.pipeline["selection"] = "query_head";
    ExpectEnginesAgree(problem, [&](const AttentionInputs& step) {
      const int64_t count = dim / factor;
      at::Tensor channels = at::zeros({heads, count}, at::kLong);
      for (int64_t head = 0; head < heads; ++head) {
        std::copy_n(lists[head].begin(), count, channels.data_ptr<int64_t>() + head * count);
      }
      return LabelCache(step.k, channels, bits).Scores(step.q);
    });
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
    SA_ASSERT_OK_AND_ASSIGN(const auto weights, IndexerWeights::Load(path));
    SA_ASSERT_OK_AND_ASSIGN(const IndexerLayerWeights* weights_of_layer,
                            weights->Layer(in.layer, in.query_heads(), in.kv_heads(), in.dim()));
    const IndexerLayer layer = {TensorOf(weights_of_layer->query), TensorOf(weights_of_layer->key),
                                TensorOf(weights_of_layer->gate)};
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& draws) {
      return Json{
          {"type", "lightning_indexer"}, {"heavy_size", Heavy(draws)}, {"weight_file", path}};
    });
    if (random.Chance(0.5)) {  // heads of a token side by side
      for (AttentionInputs& step : problem.steps) {
        step.q = step.q.transpose(1, 2).contiguous().transpose(1, 2);
      }
    }
    ExpectEnginesAgree(problem, [&](const AttentionInputs& step) {
      return IndexerKeys(step.k, layer)
          .Scores(step.q)
          .unsqueeze(1)
          .expand({step.batch(), step.query_heads(), step.queries(), step.keys()});
    });
    if (HasFailure()) return;
  }
}

TEST(IndexedMethods, SocketSelectsTheSameKeysButForRounding) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    int64_t bits = 0, tables = 0;
    MethodCase problem = MakeCase(seed, TypeOf(seed), [&](RandomTensors& random) {
      bits = random.OneOf<int64_t>({1, 4, 8, 9});
      tables = random.Integer(1, 12);
      return Json{
          {"type", "socket_top_k"}, {"heavy_size", Heavy(random)}, {"K", bits}, {"L", tables}};
    });
    problem.pipeline["selection"] = "query_head";
    ExpectEnginesAgree(problem, [&](const AttentionInputs& step) {
      const at::Tensor planes = TensorOf(SocketPlanes(tables, bits, step.dim()));
      const at::Tensor buckets =
          HashBuckets(step.k, planes, {.order = BitOrder::kHighestFirst, .zero_is_one = true});
      const at::Tensor a = at::matmul(step.q.to(at::kFloat), planes.flatten(0, 1).t())
                               .tanh()
                               .mul(1 / (std::sqrt(static_cast<double>(step.dim())) * 0.3))
                               .unflatten(-1, {tables, bits});
      const at::Tensor soft = SoftBuckets(a);  // [batch, heads, queries, tables, 2^bits]
      at::Tensor scores =
          at::zeros({step.batch(), step.query_heads(), step.queries(), step.keys()}, at::kDouble);
      for (int64_t t = 0; t < tables; ++t) {
        const at::Tensor of_heads = buckets.select(2, t)
                                        .to(at::kLong)
                                        .repeat_interleave(step.group_size(), 1)
                                        .unsqueeze(2)
                                        .expand(scores.sizes());
        scores.add_(soft.select(3, t).gather(3, of_heads));
      }
      const at::Tensor norms = step.v.to(at::kDouble).square().sum(-1).sqrt();
      return scores.mul(norms.repeat_interleave(step.group_size(), 1).unsqueeze(2));
    });
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sparse_attention
