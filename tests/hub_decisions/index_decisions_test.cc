// Quirks of the Python hub's indexes over keys that are not taken over: each test computes the
// hub's rule, shows what is wrong with it, and gives the same input to this library.
//
//   27  PQ codes pass through half types              Decision27_...
//   28  codes of the centres before their last move   KMeans.TheHubsCodesLagBehindItsCentres
//   29  the added channel of new keys                 PqCodebook.ANewKeyIsTreatedLikeAnOldOneBy...
//   30  PQ: forbidden keys, k-means without a seed    Decision30_...
//   34  buckets of 16 bits                            Decision34_...
//   35  several new keys at once                      Decision35_...
//       signatures older than the radius; held and    MagicPig.AKeyBeyondTheRadiusHasAllKeys...,
//       forbidden keys                                MagicPig.TheHubIgnoresWhatIsHeldAndVisible
#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/sign_bits.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/fixed/pq_cache.h"
#include "sparse_attention/research_attention/maskers/fixed/socket_top_k.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig.h"

namespace sparse_attention {
namespace {

Mask AddTo(const Masker& masker, const AttentionInputs& in, MaskerState* state = nullptr) {
  const auto mask = masker.AddMask(in, Mask::MakeEmpty(in.mask_shape()), state);
  SA_CHECK_OK(mask);
  return *mask;
}

// q . k of every query head, [batch, query heads, queries, keys].
at::Tensor Products(const AttentionInputs& in) {
  const at::Tensor keys = in.k.to(at::kFloat).repeat_interleave(in.group_size(), 1);
  return at::matmul(in.q.to(at::kFloat), keys.transpose(2, 3));
}

TEST(HubDecisions, Decision27_PqCodesStayIntegers) {
  // As many centroids as keys: every key is its own centroid, and the scores are exact products.
  const AttentionInputs in =
      RandomInputs({.heads = 1, .kv_heads = 1, .queries = 4, .keys = 512}, 1, at::kBFloat16);
  PqOptions options;
  options.subvectors = 1;
  options.bits = 9;
  const PqCodebook codebook(in.k, options);
  const at::Tensor codes = codebook.codes().to(at::kLong);
  const at::Tensor tables =
      at::matmul(in.q.to(at::kFloat), codebook.centroids().select(2, 0).transpose(2, 3));
  const auto scores_by = [&](const at::Tensor& c) {
    return tables.gather(3, c.select(2, 0).unsqueeze(2).expand({1, 1, 4, 512}));
  };

  // The hub's k-means gives its codes the type of the keys.
  const at::Tensor hub_codes = codes.to(at::kBFloat16).to(at::kLong);
  EXPECT_EQ(hub_codes.max().item<int64_t>(), 512);  // 511 is rounded to a centroid that is not
  EXPECT_GT(hub_codes.ne(codes).sum().item<int64_t>(), 100);
  const at::Tensor exact = Products(in);
  EXPECT_GT(scores_by(hub_codes.clamp_max(511)).sub(exact).abs().max().item<float>(), 1);

  EXPECT_THAT(scores_by(codes), TensorNear(exact, {.absolute_eps = 32}));
  EXPECT_THAT(codebook.Scores(in.q), TensorNear(exact, {.absolute_eps = 32}));
}

TEST(HubDecisions, Decision30_PqCacheSelectsNoForbiddenKey) {
  // 8 distinct keys and as many centroids: scores are exact products.
  AttentionInputs in = RandomInputs({.queries = 3, .keys = 8});
  in.k = at::cat({in.k, in.k, in.k, in.k}, 2);
  in.v = in.k;
  in.bias = at::zeros({1, 1, 3, 32});
  const at::Tensor forbidden = in.bias->narrow(3, 8, 16);
  forbidden.fill_(-std::numeric_limits<float>::infinity());

  const at::Tensor hub = std::get<1>(Products(in).topk(6, -1));
  EXPECT_TRUE(hub.ge(8).logical_and(hub.lt(24)).any().item<bool>());

  const auto masker = MakeMasker<PqCache>(
      R"({"heavy_size": 6, "pq_group_factor": 2, "pq_bits": 3, "kmeans_iter": 10,
          "init_offset": 0, "metric": "euclidean"})");
  const at::Tensor ours = AddTo(*masker, in).ToActive();
  EXPECT_FALSE(ours.narrow(3, 8, 16).any().item<bool>());
  EXPECT_TRUE(ours.sum(-1).eq(6).all().item<bool>());
}

TEST(HubDecisions, Decision30_TheSameSeedGivesTheSameCodebook) {
  const AttentionInputs in = RandomInputs({.keys = 100});
  const auto centroids = [&](bool like_hub, uint64_t global_seed) {
    at::manual_seed(global_seed);  // what else the process has drawn before
    PqOptions options;
    options.bits = 4;
    options.like_hub = like_hub;
    return PqCodebook(in.k, options).centroids();
  };
  EXPECT_FALSE(centroids(true, 1).equal(centroids(true, 2)));
  EXPECT_TRUE(centroids(false, 1).equal(centroids(false, 2)));
}

TEST(HubDecisions, Decision34_SocketBucketsOfSixteenBits) {
  constexpr int64_t kBits = 16;
  const AttentionInputs in = RandomInputs({.heads = 1, .kv_heads = 1, .queries = 2, .keys = 60});
  const at::Tensor planes = TensorOf(SocketPlanes(1, kBits, in.dim()))[0].t();
  const at::Tensor sides = at::matmul(in.k, planes).ge(0);
  const at::Tensor codes = PackBits(sides, kBits, BitOrder::kHighestFirst).view({1, 1, 1, 60});
  const at::Tensor a =
      at::matmul(in.q, planes).tanh().div(std::sqrt(static_cast<double>(in.dim())) * 0.3);
  const at::Tensor probabilities = SoftBuckets(a);  // [1, 1, 2, 2^16]
  const auto scores_by = [&](const at::Tensor& c) {
    return probabilities.gather(3, c.expand({1, 1, 2, 60})).mul(in.v.norm(2, -1).unsqueeze(2));
  };

  const at::Tensor hub_codes = codes.to(at::kShort).to(at::kLong);
  EXPECT_LT(hub_codes.min().item<int64_t>(), 0);
  EXPECT_THROW(scores_by(hub_codes), c10::Error);

  const auto masker = MakeMasker<SocketTopK>(R"({"heavy_size": 7, "K": 16, "L": 1, "tau": 0.3})");
  const at::Tensor best = std::get<1>(scores_by(codes).topk(7, -1));
  EXPECT_THAT(AddTo(*masker, in).ToDense(),
              TensorEquals(at::zeros({1, 1, 2, 60}).scatter_(3, best, 1)));
}

TEST(HubDecisions, Decision35_SeveralNewKeysAtOnce) {
  const AttentionInputs in = RandomInputs({.batch = 2, .queries = 1, .keys = 40});
  // The hub flattens the keys behind the cached ones without a copy.
  const at::Tensor fresh = in.k.narrow(2, 37, 3);
  EXPECT_THROW(fresh.view({-1, in.dim()}), c10::Error);

  const auto masker = MakeMasker<MagicPig>(R"({"lsh_l": 8, "lsh_k": 3, "center": false})");
  // The longest key first, so that later ones lie within the radius.
  AttentionInputs whole = in, shorter = in;
  whole.k = in.k.clone();
  whole.k.select(2, 0).mul_(100);
  shorter.k = whole.k.narrow(2, 0, 37);
  shorter.v = whole.v.narrow(2, 0, 37);
  const auto state = masker->NewState();
  AddTo(*masker, shorter, state.get());
  EXPECT_THAT(AddTo(*masker, whole, state.get()).ToDense(),
              TensorEquals(AddTo(*masker, whole).ToDense()));
}

}  // namespace
}  // namespace sparse_attention
