#include "sparse_attention/key_index/label_cache.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/append_testing.h"
#include "sparse_attention/key_index/pseudo_quantize.h"

namespace sparse_attention {
namespace {

// Four query heads; those of a group agree, or not.
at::Tensor Channels(bool shared) {
  const at::Tensor lists = shared ? at::tensor({3, 0, 5, 3, 0, 5, 1, 7, 2, 1, 7, 2})
                                  : at::tensor({3, 0, 5, 3, 0, 6, 1, 7, 2, 7, 1, 2});
  return lists.view({4, 3}).to(at::kLong);
}

TEST(LabelCache, ScoresAreProductsOfTheQuantisedChannels) {
  RandomTensors random(1);
  const at::Tensor keys = random.Normal({2, 2, 30, 8}), q = random.Normal({2, 4, 3, 8});
  for (bool shared : {true, false}) {
    for (int64_t bits : {1, 4, 8, 12, 16}) {
      const at::Tensor channels = Channels(shared);
      const LabelCache cache(keys, channels, bits);
      EXPECT_EQ(cache.sets(), shared ? 2 : 4);
      const at::Tensor scores = cache.Scores(q);
      for (int64_t head = 0; head < 4; ++head) {
        at::Tensor k = keys.select(1, head / 2).index_select(2, channels[head]);
        at::Tensor row = q.select(1, head).index_select(2, channels[head]);
        if (bits < 16) {
          k = PseudoQuantize(k, bits);
          row = PseudoQuantize(row, bits);
        }
        const at::Tensor expected = at::matmul(row, k.transpose(1, 2)).div(std::sqrt(3.));
        EXPECT_THAT(scores.select(1, head), TensorNear(expected, {.absolute_eps = 64}))
            << "head " << head << ", bits " << bits;
      }
    }
  }
}

TEST(LabelCache, AppendsEqualAFreshBuild) {
  const at::Tensor q = RandomTensors(2).Normal({2, 4, 1, 8});
  for (bool shared : {true, false}) {
    for (int64_t bits : {4, 12, 16}) {
      ExpectAppendsEqualAFreshBuild(
          [&](const at::Tensor& keys) { return LabelCache(keys, Channels(shared), bits); },
          [](LabelCache& cache, const at::Tensor& keys, int64_t n) { cache.Extend(keys, n); },
          [&](const LabelCache& cache) { return std::vector{cache.Scores(q)}; });
    }
  }
}

TEST(LabelCache, PiecesDoNotShow) {
  const at::Tensor keys = RandomTensors(3).Normal({1, 2, 9000, 8});
  const at::Tensor q = RandomTensors(4).Normal({1, 4, 1, 8});
  const LabelCache whole(keys, Channels(true), 4);
  const LabelCache part(keys.narrow(2, 8000, 1000), Channels(true), 4);
  EXPECT_TRUE(whole.Scores(q).narrow(3, 8000, 1000).equal(part.Scores(q)));
}

TEST(LabelCache, NanMarksItsKeyAlone) {
  at::Tensor keys = RandomTensors(5).Normal({1, 2, 6, 8});
  keys[0][0][2][3].fill_(NAN);
  const at::Tensor q = RandomTensors(6).Normal({1, 4, 1, 8});
  const at::Tensor scores = LabelCache(keys, Channels(true), 4).Scores(q);
  EXPECT_TRUE(scores[0][0][0].isnan().equal(at::tensor({0, 0, 1, 0, 0, 0}).to(at::kBool)));
  EXPECT_FALSE(scores[0][2][0].isnan().any().item<bool>());
}

TEST(LabelCache, BytesOfWhatScoringReads) {
  AttentionInputs in;
  in.q = at::zeros({2, 4, 1, 8}, at::kBFloat16);
  in.k = in.v = at::zeros({2, 2, 10, 8}, at::kBFloat16);
  EXPECT_EQ(LabelCache::Bytes(in, Channels(true), 4), 2 * 2 * 10 * (3 + 8));
  EXPECT_EQ(LabelCache::Bytes(in, Channels(false), 4), 2 * 4 * 10 * (3 + 8));
  EXPECT_EQ(LabelCache::Bytes(in, Channels(true), 12), 2 * 2 * 10 * (6 + 8));
  EXPECT_EQ(LabelCache::Bytes(in, Channels(true), 16), 2 * 2 * 10 * 6);
}

}  // namespace
}  // namespace sparse_attention
