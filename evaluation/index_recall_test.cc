#include "evaluation/index_recall.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <utility>

#include "adapters/huggingface/huggingface_adapter.h"
#include "adapters/huggingface/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

KeySelector Selector(absl::string_view masker) {
  absl::StatusOr<KeySelector> selector = SelectorFromJson(ParsedJson(masker));
  SA_CHECK_OK(selector);
  return *std::move(selector);
}

class IndexRecallTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = ::testing::TempDir() + "/tiny";
    SA_ASSERT_OK(WriteTinyCheckpoint(folder, TinyConfig()));
    SA_ASSERT_OK_AND_ASSIGN(model_, DecoderModel::Load(folder));
    RandomTensors random(3);
    for (int i = 0; i < 100; ++i) tokens_.push_back(static_cast<int32_t>(random.Integer(0, 255)));
  }

  absl::StatusOr<std::vector<IndexRecall>> Measure(const std::vector<KeySelector>& selectors,
                                                   const RecallOptions& options) const {
    return MeasureIndexRecall(*model_, tokens_, selectors, options);
  }

  std::unique_ptr<const DecoderModel> model_;
  std::vector<int32_t> tokens_;
};

TEST_F(IndexRecallTest, CountsTheKeysWithTheHighestLogits) {
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<IndexRecall> results,
                          Measure({Selector(R"({"type": "oracle_top_k", "heavy_size": 0.1})"),
                                   Selector(R"({"type": "oracle_top_k", "heavy_size": 5})"),
                                   Selector(R"({"type": "oracle_top_k", "heavy_size": 1.0})"),
                                   Selector(R"({"type": "local", "window_size": 1})")},
                                  {.top = 0.1, .queries = 10}));
  ASSERT_THAT(results, SizeIs(4));
  EXPECT_EQ(results[0].recall, 1);
  EXPECT_THAT(results[0].recall_of_layer, SizeIs(3));
  // 10 of 91 to 100 visible keys.
  EXPECT_NEAR(results[0].kept, 10 / 95.5, 1e-9);
  EXPECT_EQ(results[1].recall, 0.5);  // the best 5 of 10
  EXPECT_EQ(results[2].recall, 1);
  EXPECT_EQ(results[2].kept, 1);
  EXPECT_LE(results[3].recall, 0.1);  // one key of 10, at most
}

TEST_F(IndexRecallTest, SeesTheLastQueriesOfTheText) {
  std::vector<int64_t> layers;
  const KeySelector look = [&](const AttentionInputs& in) -> absl::StatusOr<at::Tensor> {
    layers.push_back(in.layer);
    EXPECT_EQ(in.queries(), 4);
    EXPECT_EQ(in.keys(), 100);
    EXPECT_EQ(in.query_position(0), 96);
    return Mask::MakeFull(in.mask_shape()).ToActive();
  };
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<IndexRecall> results, Measure({look}, {.queries = 4}));
  EXPECT_THAT(layers, ::testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(results[0].recall_of_layer, Each(1));
}

TEST_F(IndexRecallTest, SaysWhatIsWrong) {
  EXPECT_THAT(Measure({}, {.queries = 100}),
              StatusIs(kInvalid, "queries must be in [1, 100), the tokens, got 100"));
  EXPECT_THAT(Measure({}, {.queries = 0}), StatusIs(kInvalid));
  EXPECT_THAT(Measure({}, {.top = 0, .queries = 4}),
              StatusIs(kInvalid, "top must be in (0, 1], got 0"));
  EXPECT_THAT(SelectorFromJson(ParsedJson(R"({"type": "sink", "sink_size": 0})")),
              StatusIs(kInvalid, "sink.sink_size must be > 0, got 0"));
  const KeySelector fails = [](const AttentionInputs&) -> absl::StatusOr<at::Tensor> {
    return absl::InvalidArgumentError("no such file");
  };
  EXPECT_THAT(Measure({fails}, {.queries = 4}), StatusIs(kInvalid, HasSubstr("no such file")));
}

// The top 5 % by logits of the first `channels` of each list, [layers][query heads][head dim].
KeySelector ByChannels(std::vector<ChannelLists> layers, int64_t channels) {
  return [layers = std::move(layers), channels](const AttentionInputs& in) {
    std::vector<at::Tensor> scores;
    for (int64_t head = 0; head < in.query_heads(); ++head) {
      const std::vector<int64_t>& list = layers[in.layer][head];
      const at::Tensor chosen = at::tensor(at::ArrayRef<int64_t>(list.data(), channels));
      const at::Tensor q = in.q.select(1, head).index_select(-1, chosen).to(at::kFloat);
      const at::Tensor k =
          in.k.select(1, head / in.group_size()).index_select(-1, chosen).to(at::kFloat);
      scores.push_back(at::matmul(q, k.transpose(-1, -2)));
    }
    const at::Tensor eligible = EligibleKeys(in, Mask::MakeEmpty(in.mask_shape()));
    return SelectTopK(at::stack(scores, 1), eligible, in.keys() / 20);
  };
}

// The model's file was made from a text that the model was trained on; Persuasion is another.
TEST(ShippedChannels, FindMoreOfTheHeaviestKeysThanRandomChannels) {
  SA_ASSERT_OK_AND_ASSIGN(const auto adapter, HuggingFaceAdapter::Load("models/retrieval-6m"));
  SA_ASSERT_OK_AND_ASSIGN(const ChannelFile file,
                          ReadChannelFile("models/retrieval-6m/double_sparsity.json"));
  std::ifstream text("evaluation/haystack/persuasion.txt");
  SA_ASSERT_OK_AND_ASSIGN(
      std::vector<int32_t> tokens,
      adapter->EncodeContext(std::string(std::istreambuf_iterator<char>(text), {}).substr(50000)));
  tokens.resize(4096);

  const ModelConfig& config = adapter->model().config();
  std::vector<ChannelLists> calibrated, random;
  RandomTensors draws(5);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    SA_ASSERT_OK_AND_ASSIGN(ChannelLists lists, file.Layer(layer, ChannelSelection::kQueryKey));
    ASSERT_THAT(lists, SizeIs(config.num_heads));
    calibrated.push_back(lists);
    for (std::vector<int64_t>& list : lists) {
      ASSERT_THAT(list, SizeIs(config.head_dim));
      for (size_t i = list.size() - 1; i > 0; --i) {
        std::swap(list[i], list[draws.Integer(0, static_cast<int64_t>(i))]);
      }
    }
    random.push_back(lists);
  }
  for (const int64_t channels : {16, 8}) {
    SA_ASSERT_OK_AND_ASSIGN(
        const std::vector<IndexRecall> results,
        MeasureIndexRecall(adapter->model(), tokens,
                           {ByChannels(calibrated, channels), ByChannels(random, channels)}));
    std::printf("%d of 64 channels: recall of the top 5 %% %.3f calibrated, %.3f random\n",
                static_cast<int>(channels), results[0].recall, results[1].recall);
    EXPECT_GT(results[0].recall, 1.4 * results[1].recall);
  }
}

}  // namespace
}  // namespace sparse_attention
