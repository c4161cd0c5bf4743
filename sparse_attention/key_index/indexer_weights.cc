#include "sparse_attention/key_index/indexer_weights.h"

#include "absl/strings/str_cat.h"
#include "sparse_attention/key_index/layer_file.h"

namespace sparse_attention {
namespace {

constexpr char kFormat[] = "sah.lightning_indexer.v1";

absl::Status CheckLayer(const std::string& path, int64_t layer,
                        const IndexerLayerWeights& weights) {
  const auto error = [&](const char* name, absl::string_view rule, const FloatArray& got) {
    return LayerFileError(path, layer, name, rule, got.Describe());
  };
  const FloatArray &query = weights.query, &key = weights.key, &gate = weights.gate;
  if (query.rank() != 3 || query.empty()) {
    return error("query.weight", "must be [indexer heads, query heads * dim, width]", query);
  }
  if (key.rank() != 2 || key.empty() || key.size(1) != query.size(2)) {
    return error("key.weight", absl::StrCat("must be [KV heads * dim, ", query.size(2), "]"), key);
  }
  if (gate.rank() != 2 || gate.size(0) != query.size(1) || gate.size(1) != query.size(0)) {
    return error("gate.weight", absl::StrCat("must be [", query.size(1), ", ", query.size(0), "]"),
                 gate);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const IndexerWeights>> IndexerWeights::Load(
    const std::string& path) {
  SA_ASSIGN_OR_RETURN(LayerFile file, ReadLayerFile(path, kFormat));
  std::shared_ptr<IndexerWeights> weights(new IndexerWeights(path));
  for (auto& [layer, arrays] : file.layers) {
    IndexerLayerWeights& entry = weights->layers_[layer];
    for (const auto& [name, array] : {std::pair{"query.weight", &entry.query},
                                      {"key.weight", &entry.key},
                                      {"gate.weight", &entry.gate}}) {
      const auto found = arrays.find(name);
      if (found == arrays.end()) {
        return LayerFileError(path, layer, name, "must be there", "no such tensor");
      }
      *array = std::move(found->second);
      arrays.erase(found);
    }
    if (!arrays.empty()) {
      return LayerFileError(path, layer, arrays.begin()->first,
                            "must be query.weight, key.weight or gate.weight",
                            arrays.begin()->second.Describe());
    }
    SA_RETURN_IF_ERROR(CheckLayer(path, layer, entry));
  }
  if (weights->layers_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no layer"));
  }
  return std::shared_ptr<const IndexerWeights>(std::move(weights));
}

absl::StatusOr<const IndexerLayerWeights*> IndexerWeights::Layer(int64_t layer, int64_t query_heads,
                                                                 int64_t kv_heads,
                                                                 int64_t dim) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return NoSuchLayer(path_, layer, layers_);
  const IndexerLayerWeights& entry = found->second;
  if (entry.query.size(1) != query_heads * dim || entry.key.size(0) != kv_heads * dim) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": layer ", layer, " is for ", entry.query.size(1), " query and ",
                     entry.key.size(0), " key channels, the inputs have ", query_heads,
                     " query heads, ", kv_heads, " KV heads and dim ", dim));
  }
  return &entry;
}

}  // namespace sparse_attention
