// The config of PqCache, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_CONFIG_H_

#include <cstdint>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

enum class PqMetric { kEuclidean, kInnerProduct };
enum class KMeansRule { kPlusPlus, kHub };

template <>
struct EnumNames<PqMetric> {
  static constexpr std::pair<PqMetric, const char*> kTable[] = {{PqMetric::kEuclidean, "euclidean"},
                                                                {PqMetric::kInnerProduct, "ip"}};
};
template <>
struct EnumNames<KMeansRule> {
  static constexpr std::pair<KMeansRule, const char*> kTable[] = {
      {KMeansRule::kPlusPlus, "plus_plus"}, {KMeansRule::kHub, "hub"}};
};

struct PqCacheConfig : TopKConfig {
  static constexpr char kName[] = "pq_cache";
  int64_t pq_group_factor = 2;
  int64_t pq_bits = 6;
  int64_t kmeans_iter = 10;
  int64_t init_offset = 0;
  PqMetric metric = PqMetric::kEuclidean;
  KMeansRule kmeans = KMeansRule::kPlusPlus;
  uint64_t seed = 42;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<PqCacheConfig>(),
        std::tuple(
            Field{"pq_group_factor", &PqCacheConfig::pq_group_factor,
                  "Sub-vectors that a key is cut into.", Positive(), Required()},
            Field{"pq_bits", &PqCacheConfig::pq_bits,
                  "Bits of a code: 2^pq_bits centroids a sub-vector, 16 at most.", Positive(),
                  Required()},
            Field{"kmeans_iter", &PqCacheConfig::kmeans_iter, "Iterations of k-means at most.",
                  Positive(), Required()},
            Field{"init_offset", &PqCacheConfig::init_offset,
                  "Leading keys that are neither quantised nor selected.", NonNegative(),
                  Required()},
            Field{"metric", &PqCacheConfig::metric,
                  "What k-means makes small: distances, or errors of inner products.", Required()},
            Field{
                "kmeans", &PqCacheConfig::kmeans,
                "plus_plus: seeded k-means++ start, codes of the final centroids; hub: the Python "
                "hub's rule."},
            Field{"seed", &PqCacheConfig::seed, "Of the k-means++ start."}));
  }
  absl::Status Validate() const {
    constexpr int64_t kMostBits = 16;
    if (pq_bits > kMostBits) {
      return RuleError("pq_bits", absl::StrCat("must be <= ", kMostBits), absl::StrCat(pq_bits));
    }
    return absl::OkStatus();
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_CONFIG_H_
