#include "sparse_attention/key_index/hash_attention_weights.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/key_index/layer_file.h"

namespace sparse_attention {
namespace {

constexpr char kFormat[] = "sah.hash_attention.v1";

// The chain of linear maps named "{side}.0", "{side}.1", ...
absl::StatusOr<MlpWeights> ReadMlp(const std::string& path, int64_t layer, const std::string& side,
                                   std::map<std::string, FloatArray>& arrays) {
  MlpWeights mlp;
  for (int64_t i = 0;; ++i) {
    const std::string weight_name = absl::StrCat(side, ".", i, ".weight");
    const auto weight = arrays.find(weight_name);
    if (weight == arrays.end()) break;
    const FloatArray& w = weight->second;
    if (w.rank() != 3 || w.empty()) {
      return LayerFileError(path, layer, weight_name, "must be [heads, in, out]", w.Describe());
    }
    if (i > 0 && (w.size(0) != mlp.heads() || w.size(1) != mlp.bits())) {
      return LayerFileError(path, layer, weight_name,
                            absl::StrCat("must be [", mlp.heads(), ", ", mlp.bits(),
                                         ", out] behind the map before it"),
                            w.Describe());
    }
    const std::string bias_name = absl::StrCat(side, ".", i, ".bias");
    const auto bias = arrays.find(bias_name);
    if (bias == arrays.end()) {
      return LayerFileError(path, layer, bias_name, "must be there", "no such tensor");
    }
    if (bias->second.rank() != 2 || bias->second.size(0) != w.size(0) ||
        bias->second.size(1) != w.size(2)) {
      return LayerFileError(path, layer, bias_name,
                            absl::StrCat("must be [", w.size(0), ", ", w.size(2), "]"),
                            bias->second.Describe());
    }
    mlp.linears.push_back({std::move(weight->second), std::move(bias->second)});
    arrays.erase(weight_name);
    arrays.erase(bias_name);
  }
  if (mlp.linears.empty()) {
    return LayerFileError(path, layer, side + ".0.weight", "must be there", "no such tensor");
  }
  return mlp;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> HashAttentionWeights::Load(
    const std::string& path) {
  SA_ASSIGN_OR_RETURN(LayerFile file, ReadLayerFile(path, kFormat));
  const std::optional<Activation> activation =
      EnumFromName<Activation>(file.metadata["activation"]);
  if (!activation.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": metadata \"activation\" must be one of ", EnumChoices<Activation>(),
                     ", got \"", file.metadata["activation"], "\""));
  }
  return FromArrays(path, *activation, std::move(file.layers));
}

absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> HashAttentionWeights::FromArrays(
    const std::string& path, Activation activation, ArraysOfLayers layers) {
  std::shared_ptr<HashAttentionWeights> weights(new HashAttentionWeights(path));
  weights->activation_ = activation;
  for (auto& [layer, arrays] : layers) {
    HashAttentionLayer& entry = weights->layers_[layer];
    SA_ASSIGN_OR_RETURN(entry.query, ReadMlp(path, layer, "query", arrays));
    SA_ASSIGN_OR_RETURN(entry.key, ReadMlp(path, layer, "key", arrays));
    if (!arrays.empty()) {
      return LayerFileError(path, layer, arrays.begin()->first,
                            "must continue a chain of query or key maps",
                            arrays.begin()->second.Describe());
    }
    if (entry.query.bits() != entry.key.bits() || entry.query.dim() != entry.key.dim()) {
      return LayerFileError(path, layer, "key",
                            absl::StrCat("must map ", entry.query.dim(), " channels to ",
                                         entry.query.bits(), " bits as query does"),
                            absl::StrCat(entry.key.dim(), " and ", entry.key.bits()));
    }
  }
  if (weights->layers_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no layer"));
  }
  return std::shared_ptr<const HashAttentionWeights>(std::move(weights));
}

absl::StatusOr<const HashAttentionLayer*> HashAttentionWeights::Layer(int64_t layer,
                                                                      int64_t query_heads,
                                                                      int64_t kv_heads,
                                                                      int64_t dim) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return NoSuchLayer(path_, layer, layers_);
  const HashAttentionLayer& entry = found->second;
  const bool heads_fit = entry.query.heads() == query_heads &&
                         (entry.key.heads() == query_heads || entry.key.heads() == kv_heads);
  if (!heads_fit || entry.query.dim() != dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": layer ", layer, " is for ", entry.query.heads(), " query heads, ",
        entry.key.heads(), " key heads and dim ", entry.query.dim(), ", the inputs have ",
        query_heads, " query heads, ", kv_heads, " KV heads and dim ", dim));
  }
  return &entry;
}

}  // namespace sparse_attention
