#include "adapters/huggingface/decoder_model.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "adapters/huggingface/tiny_checkpoint.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Folder(const std::string& name) { return ::testing::TempDir() + "/" + name; }

std::unique_ptr<const DecoderModel> Model(const std::string& name,
                                          const Json& changes = Json::object(),
                                          const DecoderOptions& options = {}) {
  SA_CHECK_OK(WriteTinyCheckpoint(Folder(name), TinyConfig(changes)));
  absl::StatusOr<std::unique_ptr<const DecoderModel>> model =
      DecoderModel::Load(Folder(name), options);
  SA_CHECK_OK(model);
  return *std::move(model);
}

std::vector<int32_t> Tokens(int64_t count, int32_t start = 3) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((start + i * i * 7) % 256);
  return tokens;
}

class DecoderModelTest : public ::testing::Test {
 protected:
  AttentionFunction Dense() {
    static const auto* dense = new std::unique_ptr<const HostAttention>(*HostAttention::Create());
    return (*dense)->Bind(&session_);
  }
  AttentionSession session_;
};

// Sums over at most 100 keys and a few dozen channels, through three layers.
const Tolerance kRounding = {.relative_eps = 64, .absolute_eps = 64};

TEST_F(DecoderModelTest, LogitsOfTheLastTokensOnly) {
  const auto model = Model("last");
  const std::vector<int32_t> tokens = Tokens(20);
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(20));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor all,
                          model->Forward(tokens, &cache, Dense(), {.logits = 1000}));
  EXPECT_EQ(all.sizes(), (std::vector<int64_t>{20, 264}));
  EXPECT_EQ(all.scalar_type(), at::kFloat);
  for (int64_t wanted : {0, 1, 7}) {
    SA_ASSERT_OK(cache.Truncate(0));
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor some,
                            model->Forward(tokens, &cache, Dense(), {.logits = wanted}));
    EXPECT_THAT(some, TensorNear(all.narrow(0, 20 - wanted, wanted), kRounding)) << wanted;
  }
}

TEST_F(DecoderModelTest, PiecesGiveWhatOnePassGives) {
  for (const Json& changes :
       {Json::object(), Json{{"model_type", "mistral"}, {"sliding_window", 9}},
        Json{{"model_type", "qwen3"}},
        Json{{"max_position_embeddings", 16},
             {"rope_parameters",
              {{"rope_type", "dynamic"}, {"rope_theta", 1e4}, {"factor", 4.0}}}}}) {
    const auto model = Model("pieces", changes);
    const std::vector<int32_t> tokens = Tokens(50);
    SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(50));
    SA_ASSERT_OK_AND_ASSIGN(const at::Tensor once,
                            model->Forward(tokens, &cache, Dense(), {.logits = 30}));
    for (int64_t piece : {1, 13, 50, 64}) {
      SA_ASSERT_OK(cache.Truncate(0));
      EXPECT_THAT(model->Forward(tokens, &cache, Dense(), {.logits = 30, .tokens_per_pass = piece}),
                  IsOkAndHolds(TensorNear(once, kRounding)))
          << changes << piece;
      EXPECT_EQ(cache.length(), 50);
    }
  }
}

TEST_F(DecoderModelTest, ATruncatedCacheIsAsGoodAsNew) {
  const auto model = Model("truncate");
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(40));
  SA_ASSERT_OK(model->Forward(Tokens(20), &cache, Dense()));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor first, model->Forward(Tokens(9, 5), &cache, Dense()));
  SA_ASSERT_OK(cache.Truncate(20));
  SA_ASSERT_OK(model->Forward(Tokens(20, 77), &cache, Dense()));
  SA_ASSERT_OK(cache.Truncate(20));
  EXPECT_THAT(model->Forward(Tokens(9, 5), &cache, Dense()), IsOkAndHolds(TensorEquals(first)));
}

TEST_F(DecoderModelTest, AGrownCacheKeepsWhatItHolds) {
  const auto model = Model("grow");
  SA_ASSERT_OK_AND_ASSIGN(KvCache small, model->NewCache(20));
  SA_ASSERT_OK_AND_ASSIGN(KvCache large, model->NewCache(40));
  SA_ASSERT_OK(model->Forward(Tokens(20), &small, Dense()));
  SA_ASSERT_OK(model->Forward(Tokens(20), &large, Dense()));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor expected, model->Forward(Tokens(5), &large, Dense()));
  EXPECT_THAT(model->Forward(Tokens(5), &small, Dense()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("20 of 20 tokens"), HasSubstr("5 more"))));
  EXPECT_EQ(small.length(), 20);
  SA_ASSERT_OK(small.Reserve(25));
  EXPECT_THAT(model->Forward(Tokens(5), &small, Dense()), IsOkAndHolds(TensorEquals(expected)));
}

TEST_F(DecoderModelTest, AFailedStepLeavesTheCacheAsItWas) {
  const auto model = Model("failure");
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(40));
  SA_ASSERT_OK(model->Forward(Tokens(20), &cache, Dense()));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor expected, model->Forward(Tokens(12), &cache, Dense()));
  SA_ASSERT_OK(cache.Truncate(20));
  int calls = 0;
  const AttentionFunction dense = Dense();
  const AttentionFunction fails = [&](const AttentionInputs& in) -> absl::StatusOr<at::Tensor> {
    // The second of three pieces, in its second layer.
    if (++calls == 5) return absl::AbortedError("enough");
    return dense(in);
  };
  EXPECT_THAT(model->Forward(Tokens(12, 9), &cache, fails, {.tokens_per_pass = 4}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("enough")));
  EXPECT_EQ(cache.length(), 20);
  EXPECT_THAT(model->Forward(Tokens(12), &cache, Dense()), IsOkAndHolds(TensorEquals(expected)));
}

TEST_F(DecoderModelTest, HandsOverPositionsLayersAndWindows) {
  const auto model = Model("inputs", {{"model_type", "mistral"}, {"sliding_window", 9}});
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(40));
  SA_ASSERT_OK(model->Forward(Tokens(20), &cache, Dense()));
  std::vector<int64_t> layers;
  const AttentionFunction dense = Dense();
  const AttentionFunction spy = [&](const AttentionInputs& in) {
    layers.push_back(in.layer);
    EXPECT_EQ(in.q.sizes(), (std::vector<int64_t>{1, 4, 3, 8}));
    EXPECT_EQ(in.k.sizes(), (std::vector<int64_t>{1, 2, 23, 8}));
    EXPECT_EQ(in.first_query_position, 20);
    EXPECT_EQ(in.sliding_window, 9);
    EXPECT_TRUE(in.causal);
    return dense(in);
  };
  SA_ASSERT_OK(model->Forward(Tokens(3), &cache, spy));
  EXPECT_EQ(layers, (std::vector<int64_t>{0, 1, 2}));
}

TEST_F(DecoderModelTest, TypesAreKeptOrConverted) {
  const auto kept = Model("bf16", {{"dtype", "bfloat16"}});
  EXPECT_EQ(kept->type(), at::kBFloat16);
  const auto widened = Model("bf16", {{"dtype", "bfloat16"}}, {.dtype = "float32"});
  EXPECT_EQ(widened->type(), at::kFloat);
  SA_ASSERT_OK_AND_ASSIGN(KvCache half, kept->NewCache(20));
  SA_ASSERT_OK_AND_ASSIGN(KvCache full, widened->NewCache(20));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor a, kept->Forward(Tokens(20), &half, Dense()));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor b, widened->Forward(Tokens(20), &full, Dense()));
  EXPECT_LT(a.sub(b).norm().item<double>() / b.norm().item<double>(), 0.05);
  EXPECT_EQ(Model("narrow", Json::object(), {.dtype = "bfloat16"})->type(), at::kBFloat16);
}

TEST_F(DecoderModelTest, RefusesBadTokens) {
  const auto model = Model("tokens");
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, model->NewCache(8));
  EXPECT_THAT(model->Forward({}, &cache, Dense()), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(model->Forward({1, 2, 264}, &cache, Dense()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("tokens[2] must be in [0, 264), got 264")));
  EXPECT_THAT(model->Forward({-1}, &cache, Dense()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("got -1")));
  EXPECT_THAT(model->NewCache(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(cache.Truncate(1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("got 1")));
}

TEST_F(DecoderModelTest, RefusesBadOptions) {
  SA_ASSERT_OK(WriteTinyCheckpoint(Folder("options"), TinyConfig()));
  EXPECT_THAT(DecoderModel::Load(Folder("options"), {.dtype = "int8"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("dtype must be auto, float32 or bfloat16, got \"int8\"")));
  EXPECT_THAT(DecoderModel::Load(Folder("options"), {.device = "gpu"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("got \"gpu\"")));
  EXPECT_THAT(DecoderModel::Load(Folder("options"), {.device = "meta"}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"meta\"")));
  EXPECT_THAT(DecoderModel::Load(Folder("options"), {.device = "cuda:93"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"cuda:93\"")));
}

TEST_F(DecoderModelTest, RefusesWeightsThatDoNotFitTheConfig) {
  const std::string folder = Folder("weights");
  SA_ASSERT_OK(WriteTinyCheckpoint(folder, TinyConfig()));
  const auto rewrite = [&](const Json& changes) {
    std::ofstream(folder + "/config.json") << TinyConfig(changes);
  };
  rewrite({{"intermediate_size", 47}});
  EXPECT_THAT(DecoderModel::Load(folder),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("model.safetensors: tensor model.layers.0.mlp.gate_proj"),
                             HasSubstr("shape [47, 32], got [48, 32]"))));
  rewrite({{"num_hidden_layers", 4}});
  EXPECT_THAT(DecoderModel::Load(folder),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.layers.3.input_layernorm")));
  rewrite({{"model_type", "qwen3"}});
  EXPECT_THAT(DecoderModel::Load(folder),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("q_norm")));
  std::filesystem::remove(folder + "/model.safetensors");
  EXPECT_THAT(DecoderModel::Load(folder), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(DecoderModel::Load(Folder("nowhere")), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace sparse_attention
