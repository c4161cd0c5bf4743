// Quirks of the Python hub's fixed maskers that are not taken over: each test computes the hub's
// rule, shows what is wrong with it, and gives the same input to this library.
//
//   12  three modes of the local window that differ   Decision12_...
//   15  top-k with too few keys left                  Decision15_...
//   16  a bias against logits without scale           Decision16_...
//   23  channels of the first layer for all layers    Decision23_...
//   24  no channel left                               Decision24_...
//   25  HashAttention weights of another type         Decision25_...
//   32  Quest and keys that are held                  Decision32_...
//   37  a causal masker that does nothing             Decision37_...
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/research_attention/maskers/fixed/causal.h"
#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/local.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/quest_top_k.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename M>
std::string RowOf(absl::string_view json, const AttentionInputs& in, const Mask& previous) {
  const auto mask = MakeMasker<M>(json)->AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return MaskRow(*mask, 0, 0, 0);
}

std::string TextOf(const at::Tensor& weights) {
  return MaskRow(Mask::AdoptDense(weights.view({1, 1, 1, -1}).to(at::kFloat)), 0, 0, 0);
}

// A bias of one query that forbids these keys.
at::Tensor Forbidding(int64_t keys, const std::vector<int64_t>& forbidden) {
  const at::Tensor bias = at::zeros({1, 1, 1, keys});
  for (int64_t key : forbidden) bias.select(3, key).fill_(-kInfinity);
  return bias;
}

TEST(HubDecisions, Decision12_OneRuleForTheLocalWindow) {
  const AttentionInputs in =
      RandomInputs({.heads = 1, .kv_heads = 1, .queries = 2, .keys = 8});  // positions 6 and 7
  const Mask previous = MaskFromRows({"1......1", "1......."});
  // The window of the first query is keys 5 and 6.
  const at::Tensor window = MaskFromRows({".....11.", "......11"}).ToDense()[0][0][0];
  const at::Tensor held = previous.ToDense()[0][0][0];
  const std::string dense1 = TextOf(window), sparse = TextOf(at::maximum(held, window));
  EXPECT_EQ(dense1, ".....11.");  // forgets what was held
  EXPECT_EQ(sparse, "1....111");  // holds a key of the future
  EXPECT_EQ(RowOf<Local>(R"({"window_size": 2})", in, previous), "1....11.");
}

// Scores of keys that are held become the lowest finite number; the k highest become certain.
std::string HubTopK(const at::Tensor& scores, const Mask& previous, int64_t k) {
  const at::Tensor held = previous.ToDense().flatten();
  const at::Tensor open = scores.masked_fill(held.ne(0), std::numeric_limits<float>::lowest());
  return TextOf(held.index_fill(0, std::get<1>(open.topk(k)), 1));
}

TEST(HubDecisions, Decision15_TooFewKeysLeft) {
  AttentionInputs in = InputsWithLogits({{9, 8, 7, 6, 5, 4}});
  in.bias = Forbidding(6, {3, 4, 5});
  const Mask previous = MaskFromRows({"s....."});
  const at::Tensor scores = in.k.flatten().add(in.bias->flatten());
  const std::string json = R"({"heavy_size": 4})";
  const std::string hub = HubTopK(scores, previous, 4);
  EXPECT_EQ(hub[0], '1');                                     // a sampled key made certain
  EXPECT_EQ(std::count(hub.begin() + 3, hub.end(), '1'), 1);  // a forbidden key
  EXPECT_EQ(RowOf<OracleTopK>(json, in, previous), "s11...");
}

TEST(HubDecisions, Decision16_ABiasIsWeighedAsAttentionWeighsIt) {
  AttentionInputs in = InputsWithLogits({{10, 0, 0, 0}});
  in.scale = 0.25;  // the logit of key 0 is 2.5
  in.bias = at::zeros({1, 1, 1, 4});
  in.bias->select(3, 2).fill_(5);
  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  EXPECT_EQ(HubTopK(in.k.flatten().add(in.bias->flatten()), empty, 1), "1...");
  EXPECT_EQ(RowOf<OracleTopK>(R"({"heavy_size": 1})", in, empty), "..1.");
}

std::unique_ptr<Masker> DoubleSparsity(int64_t group_factor) {
  const std::string path = ::testing::TempDir() + "/decision_channels.json";
  std::ofstream(path) << R"({"model.layers.0.self_attn.qk_proj": [[0, 1]],)"
                      << R"( "model.layers.1.self_attn.qk_proj": [[1, 0]]})";
  auto masker = DoubleSparsityTopKDescriptor().create({{"heavy_size", 1},
                                                       {"sorted_channel_file", path},
                                                       {"group_factor", group_factor},
                                                       {"label_bits", 16}},
                                                      MaskerOptions());
  SA_CHECK_OK(masker);
  return *std::move(masker);
}

// Two channels: by the first key 0 is best, by the second key 1.
AttentionInputs TwoChannels(int64_t layer) {
  AttentionInputs in;
  in.q = at::ones({1, 1, 1, 2});
  in.k = at::tensor({3.f, 0.f, 0.f, 9.f, 2.f, 5.f, 1.f, 1.f}).view({1, 1, 4, 2});
  in.v = in.k;
  in.layer = layer;
  return in;
}

TEST(HubDecisions, Decision23_EveryLayerHasItsOwnChannels) {
  int64_t hub_channel = -1;  // loaded for the first layer that is seen, then kept
  const auto masker = DoubleSparsity(2);
  for (const int64_t layer : {0, 1}) {
    const AttentionInputs in = TwoChannels(layer);
    if (hub_channel == -1) hub_channel = layer;  // a list begins with the layer's number
    const Mask empty = Mask::MakeEmpty(in.mask_shape());
    const at::Tensor hub_scores = in.k.select(3, hub_channel).flatten();
    EXPECT_EQ(HubTopK(hub_scores, empty, 1), "1...");  // wrong for layer 1
    const auto mask = masker->AddMask(in, empty, nullptr);
    SA_ASSERT_OK(mask);
    EXPECT_EQ(MaskRow(*mask, 0, 0, 0), layer == 0 ? "1..." : ".1..");
  }
}

TEST(HubDecisions, Decision24_NoChannelLeftIsAnError) {
  const AttentionInputs in = TwoChannels(0);
  const int64_t channels = in.dim() / 3;
  const at::Tensor q = in.q.narrow(3, 0, channels), k = in.k.narrow(3, 0, channels);
  const at::Tensor hub =
      at::matmul(q, k.transpose(2, 3)).div(std::sqrt(static_cast<double>(channels)));
  EXPECT_TRUE(hub.isnan().all().item<bool>());  // 0 / 0: which keys are kept means nothing
  EXPECT_THAT(DoubleSparsity(3)->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr),
              StatusIs(kInvalid, HasSubstr("group_factor must be at most the dim, 2, got 3")));
}

TEST(HubDecisions, Decision25_WeightsServeInputsOfEveryType) {
  const AttentionInputs half = LayeredInputs({.keys = 30}, 1, at::kHalf);
  const at::Tensor hub_weights = at::ones({8, 40});  // float32, as they are stored
  EXPECT_THROW(at::matmul(half.k, hub_weights), c10::Error);

  const std::string path = ::testing::TempDir() + "/decision_hash.safetensors";
  WriteHashAttentionFile(path, {{.layer = half.layer, .key_heads = 2, .bits = 40}});
  const auto masker = HashAttentionTopKDescriptor().create(
      {{"heavy_size", 4}, {"hat_weight_file", path}}, MaskerOptions());
  SA_ASSERT_OK(masker);
  AttentionInputs wide = half;
  for (at::Tensor* x : {&wide.q, &wide.k, &wide.v}) *x = x->to(at::kFloat);
  const Mask empty = Mask::MakeEmpty(half.mask_shape());
  const auto of_half = (*masker)->AddMask(half, empty, nullptr);
  const auto of_wide = (*masker)->AddMask(wide, empty, nullptr);
  SA_ASSERT_OK(of_half);
  SA_ASSERT_OK(of_wide);
  EXPECT_TRUE(of_half->ToDense().equal(of_wide->ToDense()));
  // The hub keeps a number a bit for each of 4 query heads; here 2 KV heads keep words of bits.
  const int64_t hub_bytes = 4 * 30 * 40 * half.k.element_size();
  EXPECT_EQ((*masker)->IndexBytes(half), 2 * 30 * 2 * 4);
  EXPECT_EQ(hub_bytes / (*masker)->IndexBytes(half), 20);
}

// max(previous, pages), then times what is allowed.
TEST(HubDecisions, Decision32_QuestLeavesWhatIsHeldAlone) {
  AttentionInputs in = InputsWithLogits({{0, 1, 9, 0, 3, 2, 0, 0, 5, 5}});  // pages of 2
  in.bias = Forbidding(10, {0});
  const Mask previous = MaskFromRows({"1.s......."});  // holds a forbidden and a sampled key
  const at::Tensor best_pages = MaskFromRows({"..1111..11"}).ToDense();
  const at::Tensor hub =
      at::maximum(previous.ToDense().clamp(0, 1), best_pages).mul(in.bias->ge(0));
  EXPECT_EQ(TextOf(hub), "..1111..11");  // the one is cleared, the other certain
  EXPECT_EQ(RowOf<QuestTopK>(R"({"heavy_size": 6, "page_size": 2})", in, previous), "1.s111..11");
}

TEST(HubDecisions, Decision32_ABiasOfAnotherRankIsNamed) {
  AttentionInputs in = InputsWithLogits({{0, 1, 9, 0, 3, 2, 0, 0, 5, 5}});
  in.bias = at::zeros({1, 10});
  EXPECT_THROW(in.bias->size(2), c10::Error);  // the hub fails where it takes the shape apart
  const auto quest = MakeMasker<QuestTopK>(R"({"heavy_size": 6, "page_size": 2})");
  EXPECT_THAT(quest->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr),
              StatusIs(kInvalid, HasSubstr("bias must have 4 dimensions, got float32 [1, 10]")));
}

TEST(HubDecisions, Decision37_CausalHidesTheFuture) {
  AttentionInputs in = InputsWithLogits({{0, 0, 0, 0, 0, 0}});
  in.first_query_position = 3;
  const Mask previous = MaskFromRows({"1..s.1"});
  const Mask hub = previous;  // passed on; causality is left to the additive mask
  EXPECT_EQ(MaskRow(hub, 0, 0, 0), "1..s.1");
  EXPECT_EQ(RowOf<Causal>("{}", in, previous), "1..s..");
}

}  // namespace
}  // namespace sparse_attention
