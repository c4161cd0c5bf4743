// The config of LightningIndexer, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_CONFIG_H_

#include <memory>
#include <string>
#include <tuple>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/indexer_weights.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

struct LightningIndexerConfig : TopKConfig {
  static constexpr char kName[] = "lightning_indexer";
  std::string weight_file;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<LightningIndexerConfig>(),
        std::tuple(Field{"weight_file", &LightningIndexerConfig::weight_file,
                         "Safetensors file of the indexer; {model}/ stands for the model's folder.",
                         NonEmpty(), Required()}));
  }
};

// The weights that a config names. Errors name the field and the file.
absl::StatusOr<std::shared_ptr<const IndexerWeights>> LoadWeights(
    const LightningIndexerConfig& config);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LIGHTNING_INDEXER_CONFIG_H_
