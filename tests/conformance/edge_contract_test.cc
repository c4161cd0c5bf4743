// The edge contract, every cell with every masker through both engines: what inputs at the edge
// give as output, log-sum-exp and metrics. Keys are hidden by left padding and by the sliding
// window, and from the research engine by a bias too, which the efficient one refuses.
//
//   no key visible to a row        out exactly 0, lse -inf; left out of density, counted in
//                                  empty_rows
//   one visible key                its value bit for bit, lse its logit
//   only a learned sink            out 0, lse the sink
//   a logit of +inf                that key's value (ties averaged), lse +inf
//   NaN in selected q, k or v      NaN in that row alone, counted in nan_rows
//   NaN or infinity elsewhere      no effect
//   no keys, queries or sequences  empty tensors
//   a mask of all keys             dense attention, density 1
//   scale 0, softcap <= 0 or NaN   an error
#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/research_attention.h"
#include "tests/conformance/masker_cases.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Padding = std::vector<int64_t>;

enum class Engine { kResearch, kEfficient };
const char* NameOf(Engine engine) { return engine == Engine::kResearch ? "research" : "efficient"; }

struct Outcome {
  at::Tensor out, lse;  // float32
  at::Tensor weights;   // of the mask, 0 where a query does not see the key
  at::Tensor Rows(int64_t key) const { return weights[0].select(2, key).gt(0); }
};

Outcome Judged(const AttentionInputs& in, const at::Tensor& out, const at::Tensor& lse,
               const Mask& mask) {
  EXPECT_EQ(mask.shape(), in.mask_shape());
  return {out.to(at::kFloat), lse, VisibleWeights(in, mask)};
}

// `padding`: leading keys of each sequence that nobody sees; without a sink.
absl::StatusOr<Outcome> RunPipeline(Engine engine, const Json& maskers, const AttentionInputs& in,
                                    MetricSink* sink = nullptr, const Padding& padding = {}) {
  const Json pipeline = {{"maskers", maskers}};
  const AttentionInputs seen = WithPadding(in, padding);
  AttentionSession session;
  if (engine == Engine::kResearch) {
    SA_ASSIGN_OR_RETURN(const auto attention, ResearchFromJson(pipeline));
    at::manual_seed(3);  // where the hub's rule draws
    SA_ASSIGN_OR_RETURN(const AttentionResult result, attention->Run(seen, &session, sink));
    return Judged(seen, result.state.out, result.state.lse, result.mask);
  }
  EfficientResult result{{}, {}, Mask::MakeEmpty(in.mask_shape())};
  if (padding.empty()) {
    SA_ASSIGN_OR_RETURN(const auto attention, EfficientFromJson(pipeline));
    SA_ASSIGN_OR_RETURN(result, RunEfficient(*attention, in, &session, sink));
  } else {
    SA_ASSIGN_OR_RETURN(const auto layer,
                        LayerUnderTest::Create(pipeline, in, {.padding = padding}));
    result = layer->Run(in);
  }
  return Judged(seen, result.out, result.lse, result.mask);
}

struct EdgeCase {
  MaskerCase masker;
  Engine engine;
};
void PrintTo(const EdgeCase& c, std::ostream* out) {
  *out << DumpJson(c.masker.config) << " in the " << NameOf(c.engine) << " engine";
}

std::vector<EdgeCase> AllEdgeCases() {
  std::vector<EdgeCase> cases;
  for (const MaskerCase& masker : AllMaskerCases()) {
    cases.push_back({masker, Engine::kResearch});
    if (!masker.like_hub()) cases.push_back({masker, Engine::kEfficient});
  }
  return cases;
}

class EdgeContract : public ::testing::TestWithParam<EdgeCase> {
 protected:
  static Outcome Run(const AttentionInputs& in, MetricSink* sink = nullptr,
                     const Padding& padding = {}) {
    absl::StatusOr<Outcome> result =
        RunPipeline(GetParam().engine, Json::array({masker().config}), in, sink, padding);
    SA_EXPECT_OK(result);
    if (result.ok()) return *std::move(result);
    const AttentionState none =
        EmptyState({in.batch(), in.query_heads(), in.queries(), in.value_dim()});
    return {none.out, none.lse, Mask::MakeEmpty(in.mask_shape()).ToDense()};
  }
  static const MaskerCase& masker() { return GetParam().masker; }
  static bool InResearch() { return GetParam().engine == Engine::kResearch; }
  static bool ReadsAllKeys() {
    return masker().descriptor->scoring_reads == ScoringReads::kAllKeys;
  }
};

double ValueOf(const MemorySink& sink, const Metric& metric) {
  const std::vector<double> values = sink.Values(metric);
  EXPECT_EQ(values.size(), 1u) << metric.name;
  return values.empty() ? NAN : values[0];
}

AttentionInputs Inputs(int64_t keys = 40, at::ScalarType type = at::kFloat, int64_t queries = 3) {
  AttentionInputs in = LayeredInputs({.queries = queries, .keys = keys}, 1, type);
  in.causal = true;
  return in;
}

// Logits of an engine's own order of summation.
constexpr Tolerance kLogit = {.relative_eps = 4, .absolute_eps = 4};

TEST_P(EdgeContract, NoVisibleKey) {
  // The queries see keys [38, 38), [38, 39) and [38, 40).
  const Outcome result = Run(Inputs(), nullptr, {38});
  EXPECT_TRUE(result.out.select(2, 0).eq(0).all().item<bool>());
  EXPECT_TRUE(result.lse.select(2, 0).eq(-kInfinity).all().item<bool>());
  EXPECT_FALSE(result.out.isnan().any().item<bool>());
  EXPECT_FALSE(result.lse.isnan().any().item<bool>());
}

TEST_P(EdgeContract, NoKeyThatABiasLeavesVisible) {
  AttentionInputs in = Inputs();
  in.causal = false;
  in.bias = at::zeros({1, 1, 3, 40});
  in.bias->select(2, 1).fill_(-kInfinity);
  in.bias->select(2, 2).narrow(2, 0, 30).fill_(std::numeric_limits<float>::lowest());
  if (!InResearch()) {
    EXPECT_THAT(RunPipeline(GetParam().engine, Json::array({masker().config}), in),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("without an additive bias")));
    return;
  }
  MemorySink sink;
  const Outcome result = Run(in, &sink);
  EXPECT_TRUE(result.out.select(2, 1).eq(0).all().item<bool>());
  EXPECT_TRUE(result.lse.select(2, 1).eq(-kInfinity).all().item<bool>());
  EXPECT_FALSE(result.out.isnan().any().item<bool>());
  EXPECT_EQ(ValueOf(sink, kEmptyRows), 4);
  EXPECT_EQ(ValueOf(sink, kNanRows), 0);
  const double active = result.weights.gt(0).sum().item<double>();
  EXPECT_DOUBLE_EQ(ValueOf(sink, kResearchAttentionDensity), active / (4 * (40 + 10)));
}

TEST_P(EdgeContract, OneVisibleKey) {
  struct View {
    const char* how;
    AttentionInputs in;
    Padding padding;
  };
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (int64_t key : {0, 1, 17, 38, 39}) {
      std::vector<View> views;
      AttentionInputs last = Inputs(key + 1, type, 1);
      views.push_back({"padding", last, {key}});
      last.sliding_window = 1;
      views.push_back({"window", last, {}});
      if (InResearch()) {
        AttentionInputs in = Inputs(40, type);
        in.causal = false;
        in.bias = at::full({1, 1, 3, 40}, -kInfinity);
        in.bias->select(3, key).fill_(0);
        views.push_back({"bias", in, {}});
      }
      for (const auto& [how, in, padding] : views) {
        SCOPED_TRACE(std::string(how) + " " + std::to_string(key));
        const Outcome result = Run(in, nullptr, padding);
        const at::Tensor selected = result.Rows(key);
        // A share of very few keys may be none.
        if (ReadsAllKeys() && in.keys() >= 4) {
          EXPECT_TRUE(selected.all().item<bool>());
        }
        const at::Tensor value =
            in.v[0].select(1, key).to(at::kFloat).repeat_interleave(2, 0).unsqueeze(1);
        EXPECT_THAT(result.out[0],
                    TensorEquals(at::where(selected.unsqueeze(2), value, at::zeros({}))));
        // A sampled key of weight p stands for 1 / p keys.
        const at::Tensor k = in.k[0].select(1, key).to(at::kFloat).repeat_interleave(2, 0);
        const at::Tensor logits = at::matmul(in.q[0].to(at::kFloat), k.unsqueeze(2)).squeeze(2);
        const at::Tensor lse =
            logits.mul(in.effective_scale()).sub(result.weights[0].select(2, key).log());
        EXPECT_THAT(result.lse[0],
                    TensorNear(at::where(selected, lse, at::full({}, -kInfinity)), kLogit));
      }
    }
  }
}

TEST_P(EdgeContract, OnlyALearnedSink) {
  const auto expect_sink = [](const AttentionInputs& in, const Padding& padding) {
    const Outcome result = Run(in, nullptr, padding);
    EXPECT_TRUE(result.out.eq(0).all().item<bool>());
    EXPECT_TRUE(result.lse[0].eq(in.sink_logits->unsqueeze(1)).all().item<bool>());
  };
  for (int64_t keys : {0, 40}) {
    AttentionInputs in = Inputs(keys, at::kFloat, 1);
    in.causal = keys > 0;
    in.sink_logits = at::tensor({0.5f, -1.f, 2.f, 4.f});
    expect_sink(in, keys == 0 ? Padding() : Padding{keys});
  }
  if (!InResearch()) return;
  AttentionInputs in = Inputs();
  in.bias = at::full({1, 1, 3, 40}, -kInfinity);
  in.sink_logits = at::tensor({0.5f, -1.f, 2.f, 4.f});
  expect_sink(in, {});
}

// The second channel of keys 5 and 39 overflows the product with that of the queries. The last
// query alone sees key 39.
AttentionInputs InfiniteLogits() {
  AttentionInputs in = Inputs();
  in.q.select(3, 1).fill_(1e30);
  in.k.select(3, 1).fill_(0);
  for (int64_t key : {5, 39}) in.k.select(2, key).select(2, 1).fill_(1e30);
  return in;
}

TEST_P(EdgeContract, InfiniteLogits) {
  const AttentionInputs in = InfiniteLogits();
  ASSERT_TRUE(ComputeLogits(in).select(3, 5).isinf().all().item<bool>());
  const Outcome result = Run(in);
  if (ReadsAllKeys()) {
    EXPECT_TRUE(result.Rows(5).all().item<bool>());
    EXPECT_TRUE(result.Rows(39).select(1, 2).all().item<bool>());
  }
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t query = 0; query < 3; ++query) {
      double total = 0;
      at::Tensor mean = at::zeros({8});
      for (int64_t key : {5, 39}) {
        const double weight = result.weights[0][head][query][key].item<double>();
        if (weight == 0) continue;
        total += 1 / weight;
        mean.add_(in.v[0][head / 2][key].div(weight));
      }
      if (total == 0) continue;
      EXPECT_THAT(result.out[0][head][query],
                  TensorNear(mean.div(total), {.relative_eps = 4, .absolute_eps = 4}));
      EXPECT_EQ(result.lse[0][head][query].item<float>(), kInfinity);
    }
  }
}

// NaN in one key or value, or in one query: the rows that select it, and no others.
TEST_P(EdgeContract, NanInASelectedKeyOrValue) {
  for (const char* where : {"k", "v"}) {
    for (int64_t key : {0, 39}) {
      SCOPED_TRACE(std::string(where) + " " + std::to_string(key));
      AttentionInputs in = Inputs();
      (*where == 'k' ? in.k : in.v)[0][0][key][3].fill_(NAN);
      MemorySink sink;
      const Outcome result = Run(in, &sink);
      // Heads 0 and 1 read the KV head with the NaN.
      const at::Tensor expected =
          at::tensor({1, 1, 0, 0}).to(at::kBool).unsqueeze(1).logical_and(result.Rows(key));
      EXPECT_TRUE(result.out[0].isnan().any(-1).equal(expected));
      EXPECT_EQ(ValueOf(sink, kNanRows), expected.sum().item<double>());
      // A method that meets a NaN must not hide it. The last query alone sees key 39.
      if (ReadsAllKeys() && *where == 'k') {
        const int64_t first = key == 0 ? 0 : 2;
        EXPECT_TRUE(expected.narrow(0, 0, 2).narrow(1, first, 3 - first).all().item<bool>());
      }
    }
  }
}

TEST_P(EdgeContract, NanInAQuery) {
  AttentionInputs in = Inputs();
  in.q[0][2][1][0].fill_(NAN);
  MemorySink sink;
  const Outcome result = Run(in, &sink);
  const at::Tensor any_key = result.weights[0].gt(0).any(-1);
  at::Tensor expected = at::zeros({4, 3}, at::kBool);
  expected[2][1].fill_(true);
  EXPECT_TRUE(result.out[0].isnan().any(-1).equal(expected.logical_and(any_key)));
  if (ReadsAllKeys()) {
    EXPECT_TRUE(any_key[2][1].item<bool>());
  }
}

// A row whose sum met a NaN is summed again, in another order.
constexpr Tolerance kRounding = {.absolute_eps = 4};

TEST_P(EdgeContract, NanAndInfinityInInvisibleKeysHaveNoEffect) {
  struct View {
    const char* how;
    AttentionInputs in;
    Padding padding;
    std::vector<int64_t> hidden;  // some keys that no query sees
  };
  std::vector<View> views = {{"padding", Inputs(), {12}, {0, 7, 11}},
                             {"window", Inputs(), {}, {0, 7, 11}}};
  views[1].in.sliding_window = 25;  // from key 13 on
  if (InResearch()) {
    AttentionInputs in = Inputs();
    in.bias = at::zeros({1, 1, 3, 40});
    for (int64_t key : {0, 20, 39}) in.bias->select(3, key).fill_(-kInfinity);
    views.push_back({"bias", in, {}, {0, 20, 39}});
  }
  for (const View& view : views) {
    SCOPED_TRACE(view.how);
    const auto spoilt_with = [&](float bad) {
      AttentionInputs spoilt = view.in;
      spoilt.k = view.in.k.clone();
      spoilt.v = view.in.v.clone();
      for (int64_t key : view.hidden) {
        spoilt.k.select(2, key).fill_(bad);
        spoilt.v.select(2, key).fill_(bad);
      }
      return spoilt;
    };
    // Where an index mixes keys, keys that are not finite take no part in it: which they are does
    // not matter, but finite ones in their place would.
    const Outcome clean = Run(masker().descriptor->keys_apart ? view.in : spoilt_with(kInfinity),
                              nullptr, view.padding);
    EXPECT_FALSE(clean.out.isnan().any().item<bool>());
    for (float bad : {NAN, kInfinity, -kInfinity}) {
      const Outcome result = Run(spoilt_with(bad), nullptr, view.padding);
      if (!masker().like_hub()) {
        EXPECT_TRUE(result.weights.equal(clean.weights));
      }
      EXPECT_THAT(result.out, TensorNear(clean.out, kRounding));
      EXPECT_THAT(result.lse, TensorNear(clean.lse, kRounding));
    }
  }
}

TEST_P(EdgeContract, NanAndInfinityInUnselectedValuesHaveNoEffect) {
  if (masker().config.value("guarantee", "") == "output") {
    GTEST_SKIP() << "the promise on the output reads values of keys that it then does not select";
  }
  const AttentionInputs in = Inputs();
  const Outcome clean = Run(in);
  const at::Tensor used =
      clean.weights.gt(0).view({2, 2, 3, 40}).any(1).any(1);  // [kv heads, keys]
  for (float bad : {NAN, kInfinity}) {
    AttentionInputs spoilt = in;
    spoilt.v = in.v.masked_fill(used.logical_not().view({1, 2, 40, 1}), bad);
    const Outcome result = Run(spoilt);
    EXPECT_THAT(result.out, TensorNear(clean.out, kRounding));
    EXPECT_THAT(result.lse, TensorNear(clean.lse, kRounding));
    if (masker().chooses() || masker().like_hub()) continue;
    spoilt.k = in.k.masked_fill(used.logical_not().view({1, 2, 40, 1}), bad);
    EXPECT_THAT(Run(spoilt).out, TensorNear(clean.out, kRounding));
  }
}

TEST_P(EdgeContract, NothingToDo) {
  for (const TestShape& shape : {TestShape{.queries = 1, .keys = 0}, TestShape{.queries = 0},
                                 TestShape{.batch = 0}, TestShape{.queries = 3, .keys = 0}}) {
    AttentionInputs in = LayeredInputs(shape);
    in.causal = shape.keys > 0;
    if (!InResearch() && shape.queries > 1 && shape.keys == 0) {
      // More queries than keys: the efficient engine's queries are the last of the keys.
      EXPECT_THAT(RunPipeline(GetParam().engine, Json::array({masker().config}), in),
                  StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("to be causal")));
      continue;
    }
    MemorySink sink;
    const Outcome result = Run(in, &sink);
    EXPECT_EQ(result.out.sizes(), at::IntArrayRef({shape.batch, 4, shape.queries, 8}));
    EXPECT_EQ(result.lse.sizes(), at::IntArrayRef({shape.batch, 4, shape.queries}));
    EXPECT_TRUE(result.out.eq(0).all().item<bool>());
    EXPECT_TRUE(result.lse.eq(-kInfinity).all().item<bool>());
    EXPECT_EQ(ValueOf(sink, kNanRows), 0);
    EXPECT_EQ(ValueOf(sink, kEmptyRows), static_cast<double>(result.lse.numel()));
  }
}

TEST_P(EdgeContract, WrongScaleOrSoftcap) {
  const Json maskers = Json::array({masker().config});
  const Engine engine = GetParam().engine;
  AttentionInputs in = Inputs();
  in.scale = 0;
  EXPECT_THAT(RunPipeline(engine, maskers, in),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("scale must be")));
  in = Inputs();
  for (double softcap : {0., -1., static_cast<double>(NAN)}) {
    in.softcap = softcap;
    EXPECT_THAT(RunPipeline(engine, maskers, in),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("softcap must be")));
  }
}

INSTANTIATE_TEST_SUITE_P(AllMaskers, EdgeContract, ::testing::ValuesIn(AllEdgeCases()),
                         [](const auto& info) {
                           return info.param.masker.name + "_" + NameOf(info.param.engine);
                         });

// What the contract is not tested for in the efficient engine is what that refuses to run.
TEST(EngineRefusals, TheEfficientEngineRefusesTheHubsDrawsAlone) {
  int refused = 0;
  for (const MaskerCase& masker : AllMaskerCases()) {
    const absl::Status status =
        EfficientFromJson({{"maskers", Json::array({masker.config})}}).status();
    if (masker.like_hub()) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"hub\"")));
      ++refused;
    } else {
      SA_EXPECT_OK(status);
    }
  }
  EXPECT_GE(refused, 2);
}

// Configs that select every key, more than there are where a count says so.
class EverythingSelected : public ::testing::TestWithParam<std::tuple<const char*, Engine>> {};

TEST_P(EverythingSelected, IsDenseAttention) {
  const auto& [masker, engine] = GetParam();
  const AttentionInputs in = Inputs();
  MemorySink sink;
  SA_ASSERT_OK_AND_ASSIGN(const Outcome result,
                          RunPipeline(engine, Json::array({ParsedJson(masker)}), in, &sink));
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
  EXPECT_THAT(result.out, TensorNear(dense.out, {.relative_eps = 8, .absolute_eps = 8}));
  EXPECT_THAT(result.lse, TensorNear(dense.lse, {.relative_eps = 8, .absolute_eps = 8}));
  EXPECT_EQ(ValueOf(sink, kResearchAttentionDensity), 1);
}

INSTANTIATE_TEST_SUITE_P(
    AllMaskers, EverythingSelected,
    ::testing::Combine(
        ::testing::Values(
            R"({"type": "sink", "sink_size": 41})", R"({"type": "local", "window_size": 1000})",
            R"({"type": "causal"})", R"({"type": "oracle_top_k", "heavy_size": 1000})",
            R"({"type": "oracle_top_k", "heavy_size": 40})",
            R"({"type": "oracle_top_p", "top_p": 1.0})",
            R"({"type": "pq_cache", "heavy_size": 1.0, "pq_group_factor": 2, "pq_bits": 2,
                          "kmeans_iter": 2, "init_offset": 3, "metric": "ip"})",
            R"({"type": "quest_top_k", "heavy_size": 40, "page_size": 7})",
            R"({"type": "socket_top_k", "heavy_size": 1000})",
            R"({"type": "snap_kv", "heavy_size": 1.0})",
            R"({"type": "random_sampling", "sampling_rate": 1.0})",
            R"({"type": "adaptive_sampling", "base_rate_sampling": 1000, "epsilon": 0.1,
                          "delta": 0.1, "init_offset": 0, "local_offset": 0})",
            R"({"type": "adaptive_sampling", "base_rate_sampling": 2, "epsilon": 1e-9,
                          "delta": 1e-9, "init_offset": 0, "local_offset": 0})"),
        ::testing::Values(Engine::kResearch, Engine::kEfficient)),
    [](const auto& info) {
      return ParsedJson(std::get<0>(info.param))["type"].template get<std::string>() +
             std::to_string(info.index) + "_" + NameOf(std::get<1>(info.param));
    });

}  // namespace
}  // namespace sparse_attention
