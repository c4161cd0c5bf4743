#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer_config.h"

#include "absl/strings/str_cat.h"

namespace sparse_attention {

absl::StatusOr<std::shared_ptr<const IndexerWeights>> LoadWeights(
    const LightningIndexerConfig& config) {
  auto weights = IndexerWeights::Load(config.weight_file);
  if (!weights.ok()) {
    return Annotate(weights.status(), absl::StrCat(config.kName, ".weight_file"));
  }
  return weights;
}

}  // namespace sparse_attention
