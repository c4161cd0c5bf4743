#include "sparse_attention/key_index/channel_calibration.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr ChannelSelection kQuery = ChannelSelection::kQuery, kKey = ChannelSelection::kKey,
                           kQueryKey = ChannelSelection::kQueryKey;

AttentionInputs Inputs(const at::Tensor& q, const at::Tensor& k, int64_t layer = 0) {
  return {.q = q, .k = k, .v = k, .layer = layer};
}

// One token, two query heads that share a KV head, four channels.
AttentionInputs OneToken() {
  return Inputs(at::tensor({4.f, -1.f, 2.f, 0.f, 0.f, 7.f, 2.f, 0.f}).view({1, 2, 1, 4}),
                at::tensor({1.f, 2.f, -3.f, 5.f}).view({1, 1, 1, 4}));
}

ChannelLists Channels(const ChannelCalibration& calibration, ChannelSelection selection,
                      int64_t layer = 0) {
  const absl::StatusOr<ChannelFile> file = calibration.Channels();
  SA_CHECK_OK(file);
  const absl::StatusOr<ChannelLists> lists = file->Layer(layer, selection);
  SA_CHECK_OK(lists);
  return *lists;
}

TEST(ChannelCalibration, SortsTheChannelsOfEveryQueryHead) {
  ChannelCalibration calibration(/*average_group=*/false);
  SA_ASSERT_OK(calibration.Add(OneToken()));
  EXPECT_THAT(
      calibration.Importance(0, kQueryKey),
      IsOkAndHolds(TensorEquals(at::tensor({4., 2., 6., 0., 0., 14., 6., 0.}).view({2, 4}))));
  EXPECT_THAT(Channels(calibration, kQuery),
              ElementsAre(ElementsAre(0, 2, 1, 3), ElementsAre(1, 2, 0, 3)));
  EXPECT_THAT(Channels(calibration, kKey),
              ElementsAre(ElementsAre(3, 2, 1, 0), ElementsAre(3, 2, 1, 0)));
  EXPECT_THAT(Channels(calibration, kQueryKey),
              ElementsAre(ElementsAre(2, 0, 1, 3), ElementsAre(1, 2, 0, 3)));
}

TEST(ChannelCalibration, TheHeadsOfAGroupShareTheListOfTheirMean) {
  ChannelCalibration calibration;
  SA_ASSERT_OK(calibration.Add(OneToken()));
  // Mean |q| is 2, 4, 2, 0: channels 0 and 2 tie.
  EXPECT_THAT(Channels(calibration, kQuery),
              ElementsAre(ElementsAre(1, 0, 2, 3), ElementsAre(1, 0, 2, 3)));
  // Times |k|: 2, 8, 6, 0.
  EXPECT_THAT(Channels(calibration, kQueryKey),
              ElementsAre(ElementsAre(1, 2, 0, 3), ElementsAre(1, 2, 0, 3)));
}

TEST(ChannelCalibration, IsTheMeanOverTokensAndSequencesInDouble) {
  constexpr int64_t kBatch = 2, kHeads = 4, kKvHeads = 2, kTokens = 50, kDim = 6;
  RandomTensors random(1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const AttentionInputs in = Inputs(random.Normal({kBatch, kHeads, kTokens, kDim}, type),
                                      random.Normal({kBatch, kKvHeads, kTokens, kDim}, type));
    ChannelCalibration calibration(/*average_group=*/false);
    SA_ASSERT_OK(calibration.Add(in));
    const at::Tensor q = in.q.to(at::kDouble), k = in.k.to(at::kDouble);
    at::Tensor pairs = at::zeros({kHeads, kDim}, at::kDouble);
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t c = 0; c < kDim; ++c) {
        double q_sum = 0, k_sum = 0;
        for (int64_t b = 0; b < kBatch; ++b) {
          for (int64_t t = 0; t < kTokens; ++t) {
            q_sum += std::abs(q[b][h][t][c].item<double>());
            k_sum += std::abs(k[b][h / 2][t][c].item<double>());
          }
        }
        pairs[h][c] = q_sum * k_sum / (kBatch * kTokens * kBatch * kTokens);
      }
    }
    EXPECT_THAT(calibration.Importance(0, kQueryKey),
                IsOkAndHolds(TensorNear(pairs, {.relative_eps = 200})));
  }
  // 2^25 + 1 does not fit in float32.
  ChannelCalibration exact;
  const at::Tensor q = at::tensor({0x1p25f, 1.f, 1.f, 0.f}).view({1, 1, 4, 1});
  SA_ASSERT_OK(exact.Add(Inputs(q, q)));
  EXPECT_EQ(exact.Importance(0, kQuery)->item<double>(), (0x1p25 + 2) / 4);
}

TEST(ChannelCalibration, ATextReadInPiecesCountsEveryKeyOnce) {
  RandomTensors random(2);
  const at::Tensor q = random.Normal({1, 2, 9, 4}), k = random.Normal({1, 1, 9, 4});
  ChannelCalibration whole, pieces;
  AttentionInputs in = Inputs(q, k);
  in.causal = true;
  SA_ASSERT_OK(whole.Add(in));
  for (const auto& [begin, end] : {std::pair(0, 4), std::pair(4, 5), std::pair(5, 9)}) {
    in.q = q.slice(2, begin, end);
    in.k = in.v = k.slice(2, 0, end);
    in.first_query_position = begin;
    SA_ASSERT_OK(pieces.Add(in));
  }
  for (const ChannelSelection selection : {kQuery, kKey, kQueryKey}) {
    EXPECT_THAT(pieces.Importance(0, selection),
                IsOkAndHolds(TensorNear(*whole.Importance(0, selection), {.relative_eps = 8})));
  }
}

TEST(ChannelCalibration, KeepsLayersApartAndWritesTheirLists) {
  ChannelCalibration calibration;
  AttentionInputs in = OneToken();
  SA_ASSERT_OK(calibration.Add(in));
  in.layer = 11;
  in.q = in.q.flip(-1);
  SA_ASSERT_OK(calibration.Add(in));
  EXPECT_EQ(calibration.layers(), 2);
  EXPECT_THAT(Channels(calibration, kQuery, 0)[0], ElementsAre(1, 0, 2, 3));
  EXPECT_THAT(Channels(calibration, kQuery, 11)[0], ElementsAre(2, 1, 3, 0));
  EXPECT_THAT(calibration.Channels()->ToText(),
              HasSubstr("\"model.layers.11.self_attn.qk_proj\": [[2,3,1,0],[2,3,1,0]]\n}"));
}

TEST(ChannelCalibration, RowsThatAreNotFiniteAreLeftOutAndCounted) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  ChannelCalibration calibration;
  const at::Tensor q = at::tensor({1.f, 2.f, kNan, 9.f, 3.f, 4.f}).view({1, 1, 3, 2});
  const at::Tensor k = at::tensor({1.f, 1.f, 1.f, 1.f, 5.f, -kInf}).view({1, 1, 3, 2});
  SA_ASSERT_OK(calibration.Add(Inputs(q, k)));
  EXPECT_EQ(calibration.skipped_rows(), 2);
  EXPECT_THAT(calibration.Importance(0, kQuery),
              IsOkAndHolds(TensorEquals(at::tensor({2., 3.}).view({1, 2}))));
  EXPECT_THAT(calibration.Importance(0, kKey),
              IsOkAndHolds(TensorEquals(at::tensor({1., 1.}).view({1, 2}))));
  ChannelCalibration nothing;
  SA_ASSERT_OK(nothing.Add(Inputs(q.slice(2, 1, 2), k.slice(2, 0, 1), 3)));
  EXPECT_THAT(nothing.Channels(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                           "layer 3: query head 0 has no finite row"));
}

TEST(ChannelCalibration, SaysWhatItCannotCount) {
  ChannelCalibration calibration;
  EXPECT_THAT(calibration.Importance(0, kQuery),
              StatusIs(absl::StatusCode::kNotFound, "nothing was added for layer 0"));
  EXPECT_THAT(calibration.Add({}), StatusIs(kInvalid));
  AttentionInputs in = OneToken();
  in.first_query_position = 1;
  EXPECT_THAT(calibration.Add(in),
              StatusIs(kInvalid,
                       "queries to calibrate on must be at positions of keys, [0, 1), got "
                       "[1, 2)"));
  in.first_query_position.reset();
  SA_ASSERT_OK(calibration.Add(in));
  in.q = in.q.slice(1, 0, 1);
  EXPECT_THAT(calibration.Add(in),
              StatusIs(kInvalid, HasSubstr("layer 0: q must have shape [-1, 2, -1, 4], got")));
}

}  // namespace
}  // namespace sparse_attention
