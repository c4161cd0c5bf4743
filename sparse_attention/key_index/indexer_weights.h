// The weights of a lightning indexer for a model (see indexer_keys.h). LibTorch-free.
//
// A safetensors file (float32, float16 or bfloat16):
//   layers.{l}.query.weight [indexer heads, query heads * dim, width]
//   layers.{l}.key.weight   [KV heads * dim, width]
//   layers.{l}.gate.weight  [query heads * dim, indexer heads]
//   metadata: "format": "sah.lightning_indexer.v1"
#ifndef SPARSE_ATTENTION_KEY_INDEX_INDEXER_WEIGHTS_H_
#define SPARSE_ATTENTION_KEY_INDEX_INDEXER_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

struct IndexerLayerWeights {
  FloatArray query, key, gate;  // shapes as above

  int64_t heads() const { return query.size(0); }
  int64_t width() const { return key.size(1); }
};

class IndexerWeights {
 public:
  // NotFound, InvalidArgument or Unimplemented name the file and the tensor.
  static absl::StatusOr<std::shared_ptr<const IndexerWeights>> Load(const std::string& path);

  // InvalidArgument names the file, what it holds and what is needed.
  absl::StatusOr<const IndexerLayerWeights*> Layer(int64_t layer, int64_t query_heads,
                                                   int64_t kv_heads, int64_t dim) const;

 private:
  explicit IndexerWeights(std::string path) : path_(std::move(path)) {}
  std::string path_;
  std::map<int64_t, IndexerLayerWeights> layers_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_INDEXER_WEIGHTS_H_
