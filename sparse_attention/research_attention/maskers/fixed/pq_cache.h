// PqCache: keeps the keys whose product with the query is highest by product quantisation.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_

#include <tuple>
#include <utility>

#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

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
  absl::Status Validate() const;
};

class PqCache final : public TopKMasker {
 public:
  using Config = PqCacheConfig;
  PqCache(const PqCacheConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Products with the reconstructed keys; where there is a bias, scaled like logits and with it.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;
  // Also where there are too few keys to quantise.
  bool KeepsAll(const AttentionInputs& inputs, int64_t k) const override;
  int64_t FirstCandidate() const override { return config_.init_offset; }

  const PqCacheConfig config_;
};

const MaskerDescriptor& PqCacheDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_PQ_CACHE_H_
