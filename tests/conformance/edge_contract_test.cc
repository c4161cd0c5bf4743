// The edge contract, every cell with every masker through the research engine: what inputs at the
// edge give as output, log-sum-exp and metrics.
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
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/research_attention.h"
#include "tests/conformance/masker_cases.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

absl::StatusOr<AttentionResult> RunPipeline(const Json& maskers, const AttentionInputs& in,
                                            MetricSink* sink = nullptr) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config,
                      PipelineFromJson({{"type", "research"}, {"maskers", maskers}}));
  SA_ASSIGN_OR_RETURN(const auto attention, ResearchAttention::Create(config));
  at::manual_seed(3);  // where the hub's rule draws
  AttentionSession session;
  return attention->Run(in, &session, sink);
}

class EdgeContract : public ::testing::TestWithParam<MaskerCase> {
 protected:
  static AttentionResult Run(const AttentionInputs& in, MetricSink* sink = nullptr) {
    absl::StatusOr<AttentionResult> result =
        RunPipeline(Json::array({GetParam().config}), in, sink);
    SA_EXPECT_OK(result);
    if (result.ok()) return *std::move(result);
    return {EmptyState({in.batch(), in.query_heads(), in.queries(), in.value_dim()}),
            Mask::MakeEmpty(in.mask_shape())};
  }
  static bool ReadsAllKeys() {
    return GetParam().descriptor->scoring_reads == ScoringReads::kAllKeys;
  }
};

double ValueOf(const MemorySink& sink, const Metric& metric) {
  const std::vector<double> values = sink.Values(metric);
  EXPECT_EQ(values.size(), 1u) << metric.name;
  return values.empty() ? NAN : values[0];
}

// True for the rows [heads, queries] whose mask holds `key`.
at::Tensor RowsWithKey(const Mask& mask, int64_t key) { return mask.ToActive()[0].select(2, key); }

AttentionInputs Inputs(int64_t keys = 40, at::ScalarType type = at::kFloat) {
  return LayeredInputs({.queries = 3, .keys = keys}, 1, type);
}

TEST_P(EdgeContract, NoVisibleKey) {
  AttentionInputs in = Inputs();
  in.bias = at::zeros({1, 1, 3, 40});
  in.bias->select(2, 1).fill_(-kInfinity);
  in.bias->select(2, 2).narrow(2, 0, 30).fill_(std::numeric_limits<float>::lowest());
  MemorySink sink;
  const AttentionResult result = Run(in, &sink);
  EXPECT_TRUE(result.state.out.select(2, 1).eq(0).all().item<bool>());
  EXPECT_TRUE(result.state.lse.select(2, 1).eq(-kInfinity).all().item<bool>());
  EXPECT_FALSE(result.state.out.isnan().any().item<bool>());
  EXPECT_EQ(ValueOf(sink, kEmptyRows), 4);
  EXPECT_EQ(ValueOf(sink, kNanRows), 0);
  const at::Tensor seen = VisibleKeys(in)->expand({1, 4, 3, 40});
  const double active = result.mask.ToActive().logical_and(seen).sum().item<double>();
  EXPECT_DOUBLE_EQ(ValueOf(sink, kResearchAttentionDensity), active / (4 * (40 + 10)));
}

TEST_P(EdgeContract, OneVisibleKey) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    AttentionInputs in = Inputs(40, type);
    const at::Tensor logits = ComputeLogits(in);
    for (int64_t key : {0, 1, 17, 38, 39}) {
      SCOPED_TRACE(key);
      in.bias = at::full({1, 1, 3, 40}, -kInfinity);
      in.bias->select(3, key).fill_(0);
      const AttentionResult result = Run(in);
      const at::Tensor selected = RowsWithKey(result.mask, key);
      if (ReadsAllKeys()) {
        EXPECT_TRUE(selected.all().item<bool>());
      }
      const at::Tensor value =
          in.v[0].select(1, key).to(at::kFloat).repeat_interleave(2, 0).unsqueeze(1);
      const at::Tensor weight = result.mask.ToDense()[0].select(2, key);
      EXPECT_THAT(result.state.out[0],
                  TensorEquals(at::where(selected.unsqueeze(2), value, at::zeros({}))));
      // A sampled key of weight p stands for 1 / p keys.
      const at::Tensor lse = logits[0].select(2, key).sub(weight.log());
      EXPECT_THAT(result.state.lse[0],
                  TensorNear(at::where(selected, lse, at::full({}, -kInfinity)),
                             {.relative_eps = 4, .absolute_eps = 4}));
    }
  }
}

TEST_P(EdgeContract, OnlyALearnedSink) {
  AttentionInputs in = Inputs();
  in.bias = at::full({1, 1, 3, 40}, -kInfinity);
  in.sink_logits = at::tensor({0.5f, -1.f, 2.f, 4.f});
  const AttentionResult result = Run(in);
  EXPECT_TRUE(result.state.out.eq(0).all().item<bool>());
  EXPECT_TRUE(result.state.lse[0].eq(in.sink_logits->unsqueeze(1)).all().item<bool>());
}

// The second channel of keys 5 and 39 overflows the product with that of the queries.
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
  const AttentionResult result = Run(in);
  const at::Tensor weights = result.mask.ToDense();
  if (ReadsAllKeys()) {
    for (int64_t key : {5, 39}) EXPECT_TRUE(RowsWithKey(result.mask, key).all().item<bool>());
  }
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t query = 0; query < 3; ++query) {
      double total = 0;
      at::Tensor mean = at::zeros({8});
      for (int64_t key : {5, 39}) {
        const double weight = weights[0][head][query][key].item<double>();
        if (weight == 0) continue;
        total += 1 / weight;
        mean.add_(in.v[0][head / 2][key].div(weight));
      }
      if (total == 0) continue;
      EXPECT_THAT(result.state.out[0][head][query],
                  TensorNear(mean.div(total), {.relative_eps = 4, .absolute_eps = 4}));
      EXPECT_EQ(result.state.lse[0][head][query].item<float>(), kInfinity);
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
      const AttentionResult result = Run(in, &sink);
      const at::Tensor selected = RowsWithKey(result.mask, key);
      // Heads 0 and 1 read the KV head with the NaN.
      const at::Tensor expected =
          at::tensor({1, 1, 0, 0}).to(at::kBool).unsqueeze(1).logical_and(selected);
      EXPECT_TRUE(result.state.out[0].isnan().any(-1).equal(expected));
      EXPECT_EQ(ValueOf(sink, kNanRows), expected.sum().item<double>());
      // A method that meets a NaN must not hide it.
      if (ReadsAllKeys() && *where == 'k') {
        EXPECT_TRUE(expected.narrow(0, 0, 2).all().item<bool>());
      }
    }
  }
}

TEST_P(EdgeContract, NanInAQuery) {
  AttentionInputs in = Inputs();
  in.q[0][2][1][0].fill_(NAN);
  MemorySink sink;
  const AttentionResult result = Run(in, &sink);
  const at::Tensor any_key = result.mask.ToActive()[0].any(-1);
  at::Tensor expected = at::zeros({4, 3}, at::kBool);
  expected[2][1].fill_(true);
  EXPECT_TRUE(result.state.out[0].isnan().any(-1).equal(expected.logical_and(any_key)));
  if (ReadsAllKeys()) {
    EXPECT_TRUE(any_key[2][1].item<bool>());
  }
}

// A row whose sum met a NaN is summed again, in another order.
constexpr Tolerance kRounding = {.absolute_eps = 4};

TEST_P(EdgeContract, NanAndInfinityInInvisibleKeysHaveNoEffect) {
  AttentionInputs in = Inputs();
  in.bias = at::zeros({1, 1, 3, 40});
  for (int64_t key : {0, 20, 39}) in.bias->select(3, key).fill_(-kInfinity);
  const auto padded_with = [&](float bad) {
    AttentionInputs padded = in;
    padded.k = in.k.clone();
    padded.v = in.v.clone();
    for (int64_t key : {0, 20, 39}) {
      padded.k.select(2, key).fill_(bad);
      padded.v.select(2, key).fill_(bad);
    }
    return padded;
  };
  // Where an index mixes keys, keys that are not finite take no part in it: which they are does not
  // matter, but finite ones in their place would.
  const AttentionResult clean =
      Run(GetParam().descriptor->keys_apart ? in : padded_with(kInfinity));
  EXPECT_FALSE(clean.state.out.isnan().any().item<bool>());
  for (float bad : {NAN, kInfinity, -kInfinity}) {
    const AttentionResult result = Run(padded_with(bad));
    if (!GetParam().like_hub()) {
      EXPECT_TRUE(result.mask.ToDense().equal(clean.mask.ToDense()));
    }
    EXPECT_THAT(result.state.out, TensorNear(clean.state.out, kRounding));
    EXPECT_THAT(result.state.lse, TensorNear(clean.state.lse, kRounding));
  }
}

TEST_P(EdgeContract, NanAndInfinityInUnselectedValuesHaveNoEffect) {
  if (GetParam().config.value("guarantee", "") == "output") {
    GTEST_SKIP() << "the promise on the output reads values of keys that it then does not select";
  }
  const AttentionInputs in = Inputs();
  const AttentionResult clean = Run(in);
  const at::Tensor used =
      clean.mask.ToActive().view({2, 2, 3, 40}).any(1).any(1);  // [kv heads, keys]
  for (float bad : {NAN, kInfinity}) {
    AttentionInputs spoilt = in;
    spoilt.v = in.v.masked_fill(used.logical_not().view({1, 2, 40, 1}), bad);
    const AttentionResult result = Run(spoilt);
    EXPECT_THAT(result.state.out, TensorNear(clean.state.out, kRounding));
    EXPECT_THAT(result.state.lse, TensorNear(clean.state.lse, kRounding));
    if (GetParam().chooses() || GetParam().like_hub()) continue;
    spoilt.k = in.k.masked_fill(used.logical_not().view({1, 2, 40, 1}), bad);
    EXPECT_THAT(Run(spoilt).state.out, TensorNear(clean.state.out, kRounding));
  }
}

TEST_P(EdgeContract, NothingToDo) {
  for (const TestShape& shape :
       {TestShape{.queries = 3, .keys = 0}, TestShape{.queries = 0}, TestShape{.batch = 0}}) {
    const AttentionInputs in = LayeredInputs(shape);
    MemorySink sink;
    const AttentionResult result = Run(in, &sink);
    EXPECT_EQ(result.mask.shape(), in.mask_shape());
    EXPECT_EQ(result.state.out.sizes(), at::IntArrayRef({shape.batch, 4, shape.queries, 8}));
    EXPECT_TRUE(result.state.out.eq(0).all().item<bool>());
    EXPECT_TRUE(result.state.lse.eq(-kInfinity).all().item<bool>());
    EXPECT_EQ(ValueOf(sink, kNanRows), 0);
  }
}

TEST_P(EdgeContract, WrongScaleOrSoftcap) {
  const Json maskers = Json::array({GetParam().config});
  AttentionInputs in = Inputs();
  in.scale = 0;
  EXPECT_THAT(RunPipeline(maskers, in),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("scale must be")));
  in = Inputs();
  for (double softcap : {0., -1., static_cast<double>(NAN)}) {
    in.softcap = softcap;
    EXPECT_THAT(RunPipeline(maskers, in),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("softcap must be")));
  }
}

INSTANTIATE_TEST_SUITE_P(AllMaskers, EdgeContract, ::testing::ValuesIn(AllMaskerCases()),
                         [](const auto& info) { return info.param.name; });

// Configs that select every key, more than there are where a count says so.
class EverythingSelected : public ::testing::TestWithParam<const char*> {};

TEST_P(EverythingSelected, IsDenseAttention) {
  AttentionInputs in = Inputs();
  in.causal = true;
  const Json masker = ParsedJson(GetParam());
  MemorySink sink;
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result,
                          RunPipeline(Json::array({masker}), in, &sink));
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
  EXPECT_THAT(result.state.out, TensorNear(dense.out, {.relative_eps = 8, .absolute_eps = 8}));
  EXPECT_THAT(result.state.lse, TensorNear(dense.lse, {.relative_eps = 8, .absolute_eps = 8}));
  EXPECT_EQ(ValueOf(sink, kResearchAttentionDensity), 1);
}

INSTANTIATE_TEST_SUITE_P(
    AllMaskers, EverythingSelected,
    ::testing::Values(R"({"type": "sink", "sink_size": 41})",
                      R"({"type": "local", "window_size": 1000})", R"({"type": "causal"})",
                      R"({"type": "oracle_top_k", "heavy_size": 1000})",
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
    [](const auto& info) {
      return ParsedJson(info.param)["type"].template get<std::string>() +
             std::to_string(info.index);
    });

}  // namespace
}  // namespace sparse_attention
