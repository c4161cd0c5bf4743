// The parts of the index methods against those of the Python hub: key_index.json.
#include <ATen/Context.h>
#include <ATen/ops/matmul.h>

#include <cmath>

#include "gtest/gtest.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/key_index/k_means.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/mips_transform.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/pseudo_quantize.h"
#include "sparse_attention/key_index/quest_pages.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig.h"
#include "tests/golden/golden_testing.h"

namespace sparse_attention {
namespace {

const Json& Golden() {
  static const Json* const golden = new Json(GoldenFile("tests/golden/key_index.json"));
  return *golden;
}

// The hub repeats KV heads to query heads: [1, 2, ...] to [1, 4, ...].
at::Tensor Repeated(const at::Tensor& x) { return x.repeat_interleave(2, 1); }

TEST(GoldenPseudoQuantize, AllWidths) {
  const at::Tensor x = Generate({2, 3, 4}, .9, .3, 1);
  const Json& golden = Golden()["pseudo_quantize"];
  ExpectNear(PseudoQuantize(x, 4), Numbers(golden["q4"]));
  ExpectNear(PseudoQuantize(x, 2), Numbers(golden["q2"]));
  ExpectNear(PseudoQuantize(x, 1), Numbers(golden["q1"]));
}

TEST(GoldenQuest, PageScores) {
  const AttentionInputs in = GoldenInputs(false);
  const at::Tensor expected = Numbers(Golden()["quest"]["scores"]);
  const QuestPages pages(in.k, Golden()["quest"]["page_size"].get<int64_t>(), 16);
  ExpectNear(pages.Scores(in.q), expected, kTolerance * expected.max().item<double>());
}

TEST(GoldenSocket, PlanesBucketsAndSoftMembership) {
  const AttentionInputs in = GoldenInputs(false);
  const Json& golden = Golden()["socket"];
  const at::Tensor planes = TensorOf(SocketPlanes(4, 3, 8));
  ExpectNear(planes, Numbers(golden["planes_L4_P3_D8"]), 1e-6);
  const HashRule rule = {.order = BitOrder::kHighestFirst, .zero_is_one = true};
  ExpectNear(Repeated(HashBuckets(in.k, planes, rule)), Numbers(golden["buckets"]), 0);
  const double scale = 1 / (std::sqrt(8.) * golden["tau"].get<double>());
  const at::Tensor a = at::matmul(planes, in.q[0][0][0]).tanh().mul(scale);
  ExpectNear(SoftBuckets(a), Numbers(golden["soft_hash_h0q0"]), 1e-6);
}

MagicPigConfig GoldenMagicPig() {
  MagicPigConfig config;
  config.lsh_l = 6;
  config.lsh_k = 3;
  config.estimator = Estimator::kHub;
  return config;
}

TEST(GoldenMagicPigParts, PlanesCentreSignatures) {
  const AttentionInputs in = GoldenInputs(false);
  const Json& golden = Golden()["magicpig"];
  const at::Tensor planes = MagicPigPlanes(GoldenMagicPig(), 42, 0, 8);
  // The hub's projections are [channel, table and bit].
  ExpectNear(planes.flatten(0, 1).t().flatten().narrow(0, 0, 12),
             Numbers(golden["projections_first12"]), 1e-6);
  const MipsTransform transform = MipsTransform::Fit(in.k, true, true);
  ExpectNear(transform.centre[0][0], Numbers(golden["key_mean_h0"]), 1e-6);
  const at::Tensor buckets = HashBuckets(transform.Keys(in.k), planes, HashRule{});
  ExpectNear(Repeated(buckets).transpose(2, 3), Numbers(golden["key_signatures"]), 0);
}

TEST(GoldenMagicPigParts, CollisionProbabilities) {
  const AttentionInputs in = GoldenInputs(false);
  const MipsTransform transform = MipsTransform::Fit(in.k, true, true);
  const at::Tensor cosines =
      at::matmul(transform.Queries(in.q), Repeated(transform.Keys(in.k)).transpose(2, 3));
  const at::Tensor p = CollisionProbability(cosines, 3, 6);
  ExpectNear(p[0][0][0], Numbers(Golden()["magicpig"]["collision_prob_h0q0"]));
  ExpectNear(p[0][3][1], Numbers(Golden()["magicpig"]["collision_prob_h3q1"]));
}

TEST(GoldenKMeans, LikeTheHub) {
  const Json& golden = Golden()["kmeans_seed9"];
  KMeansOptions options;
  options.clusters = golden["k"].get<int64_t>();
  options.iterations = golden["iters"].get<int64_t>();
  options.like_hub = true;
  at::manual_seed(9);
  const KMeansResult result = KMeans(Generate({2, 12, 3}, 1.3, .4, 1), at::Tensor(), options);
  ExpectNear(result.assignments, Numbers(golden["codes"]), 0);
  ExpectNear(result.centroids, Numbers(golden["centroids"]));
}

// The channel that makes all vectors of a group equally long.
TEST(GoldenInnerProductMetric, AddedChannel) {
  const at::Tensor x = Generate({1, 2, 12, 3}, 1.3, .4, 1);
  const at::Tensor phi = SquaredRadius(x);
  ExpectNear(phi, Numbers(Golden()["ip2l2"]["phi"]));
  ExpectNear(AddNormChannel(x, phi).narrow(-1, 3, 1), Numbers(Golden()["ip2l2"]["extra_col"]));
}

}  // namespace
}  // namespace sparse_attention
