#include "sparse_attention/key_index/indexer_keys.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/key_index/layer_file.h"
#include "sparse_attention/key_index/row_matmul.h"

namespace sparse_attention {
namespace {

constexpr char kFormat[] = "sah.lightning_indexer.v1";
constexpr int64_t kPieceKeys = 4096;  // projected at a time

// [batch, heads, n, dim] to float32 [batch, n, heads * dim]
at::Tensor JoinHeads(const at::Tensor& x) {
  return x.to(at::kFloat).transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

absl::Status CheckLayer(const std::string& path, int64_t layer, const IndexerLayer& weights) {
  const auto error = [&](const char* name, absl::string_view rule, const at::Tensor& got) {
    return LayerFileError(path, layer, name, rule, DescribeTensor(got));
  };
  const at::Tensor &query = weights.query, &key = weights.key, &gate = weights.gate;
  if (query.dim() != 3 || query.numel() == 0) {
    return error("query.weight", "must be [indexer heads, query heads * dim, width]", query);
  }
  if (key.dim() != 2 || key.numel() == 0 || key.size(1) != query.size(2)) {
    return error("key.weight", absl::StrCat("must be [KV heads * dim, ", query.size(2), "]"), key);
  }
  if (gate.dim() != 2 || gate.size(0) != query.size(1) || gate.size(1) != query.size(0)) {
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
  for (auto& [layer, tensors] : file.layers) {
    IndexerLayer& entry = weights->layers_[layer];
    for (const auto& [name, tensor] : {std::pair{"query.weight", &entry.query},
                                       {"key.weight", &entry.key},
                                       {"gate.weight", &entry.gate}}) {
      const auto found = tensors.find(name);
      if (found == tensors.end()) {
        return LayerFileError(path, layer, name, "must be there", "no such tensor");
      }
      *tensor = found->second;
      tensors.erase(found);
    }
    if (!tensors.empty()) {
      return LayerFileError(path, layer, tensors.begin()->first,
                            "must be query.weight, key.weight or gate.weight",
                            DescribeTensor(tensors.begin()->second));
    }
    SA_RETURN_IF_ERROR(CheckLayer(path, layer, entry));
  }
  if (weights->layers_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no layer"));
  }
  return std::shared_ptr<const IndexerWeights>(std::move(weights));
}

absl::StatusOr<const IndexerLayer*> IndexerWeights::Layer(int64_t layer, int64_t query_heads,
                                                          int64_t kv_heads, int64_t dim) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) return NoSuchLayer(path_, layer, layers_);
  const IndexerLayer& entry = found->second;
  if (entry.query.size(1) != query_heads * dim || entry.key.size(0) != kv_heads * dim) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": layer ", layer, " is for ", entry.query.size(1), " query and ",
                     entry.key.size(0), " key channels, the inputs have ", query_heads,
                     " query heads, ", kv_heads, " KV heads and dim ", dim));
  }
  return &entry;
}

IndexerKeys::IndexerKeys(const at::Tensor& keys, const IndexerLayer& layer) : layer_(&layer) {
  Extend(keys, 0);
}

void IndexerKeys::Extend(const at::Tensor& keys, int64_t unchanged) {
  int64_t begin = unchanged;
  do {  // at least once, so that there is a tensor
    const int64_t length = std::min(kPieceKeys, keys.size(2) - begin);
    keys_.Set(begin, RowMatmul(JoinHeads(keys.narrow(2, begin, length)), layer_->key));
    begin += length;
  } while (begin < keys.size(2));
}

at::Tensor IndexerKeys::Scores(const at::Tensor& q) const {
  const at::Tensor joined = JoinHeads(q);  // [batch, queries, channels]
  const at::Tensor gates = at::matmul(joined, layer_->gate);
  const at::Tensor keys = keys_.view().transpose(1, 2);
  at::Tensor scores;
  for (int64_t head = 0; head < layer_->query.size(0); ++head) {
    const at::Tensor products = at::matmul(at::matmul(joined, layer_->query[head]), keys).relu_();
    products.mul_(gates.narrow(2, head, 1));
    scores = head == 0 ? products : scores.add_(products);
  }
  return scores;
}

}  // namespace sparse_attention
