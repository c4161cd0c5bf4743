#include "sparse_attention/sparse_attention.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/efficient_attention/method_testing.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

// Two steps of a session: all keys but the last few, then all of them.
std::vector<at::Tensor> Steps(const SparseAttention& attention, const AttentionInputs& in) {
  std::vector<at::Tensor> outs;
  AttentionSession session;
  const int64_t before = std::max(in.queries(), in.keys() - 3);
  for (const int64_t keys : {before, in.keys()}) {
    AttentionInputs step = in;
    step.k = in.k.narrow(2, 0, keys);
    step.v = in.v.narrow(2, 0, keys);
    absl::StatusOr<at::Tensor> out = attention.Attend(step, &session);
    SA_CHECK_OK(out.status());
    outs.push_back(*std::move(out));
  }
  return outs;
}

std::unique_ptr<const SparseAttention> FromJson(const Json& json) {
  absl::StatusOr<PipelineConfig> config = PipelineFromJson(json);
  SA_CHECK_OK(config.status());
  auto attention = SparseAttention::Create(*config);
  SA_CHECK_OK(attention.status());
  return *std::move(attention);
}

Json Pipeline(const Json& method, Json masker) {
  masker["heavy_size"] = method["heavy_size"];
  return {{"type", "efficient"},
          {"selection", method["selection"]},
          {"maskers",
           {{{"type", "sink"}, {"sink_size", method["sink_size"]}},
            {{"type", "local"}, {"window_size", method["local_size"]}},
            masker}}};
}

// `method`, `config` and the pipeline written out compute the same bits, and what the research
// engine computes but for rounding.
template <typename Config>
void ExpectTwin(const AttentionInputs& in, const Json& method, const Config& config,
                const Json& pipeline) {
  SCOPED_TRACE(pipeline.dump());
  const auto twin = FromJson(method);
  const auto written = FromJson(pipeline);
  SA_ASSERT_OK_AND_ASSIGN(const auto of_struct, SparseAttention::Create(config));
  EXPECT_EQ(twin->config(), written->config());
  EXPECT_EQ(of_struct->config(), written->config());
  EXPECT_EQ(twin->config().type, EngineType::kEfficient);
  Json definition = pipeline;
  definition["type"] = "research";
  const std::vector<at::Tensor> expected = Steps(*written, in), a = Steps(*twin, in),
                                b = Steps(*of_struct, in),
                                defined = Steps(*FromJson(definition), in);
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_TRUE(a[step].equal(expected[step]));
    EXPECT_TRUE(b[step].equal(expected[step]));
    EXPECT_THAT(a[step], TensorNear(defined[step], {.relative_eps = 4,
                                                    .absolute_eps = static_cast<double>(in.keys()),
                                                    .magnitude = in.v.abs().max().item<double>()}));
  }
}

template <typename Config>
void SetSizes(const Json& method, Config* config) {
  config->heavy_size = *Budget::FromJson(method["heavy_size"]);
  config->sink_size = *Budget::FromJson(method["sink_size"]);
  config->local_size = *Budget::FromJson(method["local_size"]);
  config->selection =
      method["selection"] == "kv_group" ? Selection::kKvGroup : Selection::kQueryHead;
}

Json Method(const char* type, RandomTensors& random) {
  return {{"type", type},
          {"heavy_size", Heavy(random)},
          {"sink_size", random.Integer(1, 64)},
          {"local_size", random.Chance(0.5) ? Json(random.Integer(1, 64)) : Json(0.1)},
          {"selection", random.OneOf<std::string>({"query_head", "kv_group"})}};
}

TEST(SparseAttention, HashAttentionIsTheEfficientTwinOfItsPipeline) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const EngineCase problem = MakeEngineCase(seed, TypeOf(seed), 1000);
    const AttentionInputs& in = problem.inputs;
    SCOPED_TRACE(problem.text);
    const std::string path = ::testing::TempDir() + "/hash.safetensors";
    WriteHashAttentionFile(path, {{in.layer, in.query_heads(), in.kv_heads(), in.dim()}});
    RandomTensors random(seed + 100);
    Json method = Method("hash_attention", random);
    method["hat_weights"] = path;
    HashAttentionConfig config;
    SetSizes(method, &config);
    config.hat_weights = path;
    ExpectTwin(in, method, config,
               Pipeline(method, {{"type", "hash_attention_top_k"}, {"hat_weight_file", path}}));
    if (HasFailure()) return;
  }
}

TEST(SparseAttention, DoubleSparsityIsTheEfficientTwinOfItsPipeline) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const EngineCase problem = MakeEngineCase(seed, TypeOf(seed), 1000);
    const AttentionInputs& in = problem.inputs;
    SCOPED_TRACE(problem.text);
    RandomTensors random(seed + 200);
    ChannelFile file;
    ChannelLists lists(static_cast<size_t>(in.query_heads()));
    for (std::vector<int64_t>& list : lists) {
      list.resize(static_cast<size_t>(in.dim()));
      std::iota(list.begin(), list.end(), 0);
      for (size_t i = list.size(); i > 1; --i) {
        std::swap(list[i - 1], list[random.Integer(0, static_cast<int64_t>(i) - 1)]);
      }
    }
    ChannelLists reversed = lists;
    for (std::vector<int64_t>& list : reversed) std::reverse(list.begin(), list.end());
    SA_ASSERT_OK(file.Set(in.layer, ChannelSelection::kQueryKey, lists));
    SA_ASSERT_OK(file.Set(in.layer, ChannelSelection::kKey, reversed));
    const std::string path = ::testing::TempDir() + "/channels.json";
    SA_ASSERT_OK(WriteChannelFile(path, file));

    Json method = Method("double_sparsity", random);
    DoubleSparsityConfig config;
    SetSizes(method, &config);
    config.ds_channel_config.sorted_channel_file = path;
    config.ds_bits = 16;
    config.ds_group_factor = random.OneOf<int64_t>({4, 8, 16});
    Json masker = {{"type", "double_sparsity_top_k"},
                   {"sorted_channel_file", path},
                   {"group_factor", config.ds_group_factor},
                   {"label_bits", config.ds_bits}};
    method["ds_bits"] = config.ds_bits;
    method["ds_group_factor"] = config.ds_group_factor;
    method["ds_channel_config"] = path;
    if (seed % 2 == 0) {
      config.ds_channel_config.channel_selection = "k_proj";
      masker["channel_selection"] = "k_proj";
      method["ds_channel_config"] = {{"sorted_channel_file", path},
                                     {"channel_selection", "k_proj"}};
    }
    ExpectTwin(in, method, config, Pipeline(method, masker));
    if (HasFailure()) return;
  }
}

TEST(SparseAttention, TheTypeOfAPipelineIsItsEngine) {
  const Json research = {
      {"type", "research"},
      {"maskers", {{{"type", "random_sampling"}, {"sampling_rate", 0.5}, {"estimator", "hub"}}}}};
  EXPECT_EQ(FromJson(research)->config().type, EngineType::kResearch);
  Json efficient = research;
  efficient["type"] = "efficient";
  SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config, PipelineFromJson(efficient));
  EXPECT_THAT(SparseAttention::Create(config),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("pipeline.maskers[0]")));
}

TEST(SparseAttention, ErrorsOfMethods) {
  HashAttentionConfig hash;
  EXPECT_THAT(SparseAttention::Create(hash),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "hash_attention.hat_weights must not be empty, got \"\""));
  hash.hat_weights = "/no/such/file.safetensors";
  EXPECT_THAT(SparseAttention::Create(hash),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("pipeline.maskers[2]: hash_attention_top_k.hat_weight_file: ")));
  DoubleSparsityConfig channels;
  channels.ds_channel_config.sorted_channel_file = "/no/such/file.json";
  EXPECT_THAT(
      SparseAttention::Create(channels),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("pipeline.maskers[2]: double_sparsity_top_k.sorted_channel_file: ")));
  channels.ds_channel_config.channel_selection = "v_proj";
  EXPECT_THAT(SparseAttention::Create(channels),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("pipeline.maskers[2]: double_sparsity_top_k.channel_selection "
                                 "must be 'q_proj', 'k_proj' or 'qk_proj', got \"v_proj\"")));
  channels.ds_bits = 0;
  EXPECT_THAT(SparseAttention::Create(channels),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "double_sparsity.ds_bits must be in range (0, 16], got 0"));
}

}  // namespace
}  // namespace sparse_attention
