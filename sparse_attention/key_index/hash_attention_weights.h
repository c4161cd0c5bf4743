// The weights of HashAttention for a model, a safetensors file:
//
//   layers.{l}.query.{i}.weight  [query heads, in, out]    i = 0, 1, ...: linear maps in order
//   layers.{l}.query.{i}.bias    [query heads, out]
//   layers.{l}.key.{i}.weight    [heads, in, out]          heads: query heads, or KV heads where
//   the layers.{l}.key.{i}.bias      [heads, out]              query heads of a group share
//   signatures metadata: "format": "sah.hash_attention.v1", "activation": "relu", "silu", "gelu" or
//   "tanh"
//
// float32, float16 or bfloat16. tools/convert_hash_attention_weights.py makes it from the Python
// hub's pickle, which is not read here: a pickle can run any code.
#ifndef SPARSE_ATTENTION_KEY_INDEX_HASH_ATTENTION_WEIGHTS_H_
#define SPARSE_ATTENTION_KEY_INDEX_HASH_ATTENTION_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/bit_signature.h"

namespace sparse_attention {

struct HashAttentionLayer {
  HeadMlp query, key;
};

class HashAttentionWeights {
 public:
  // Every shape is checked: equal bits of queries and keys, equal dims, matching chains. NotFound,
  // InvalidArgument or Unimplemented name the file and the tensor.
  static absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> Load(const std::string& path);

  // The same of float32 tensors on the host: layer -> "query.0.weight" and so on -> tensor.
  // `origin` stands for the path in messages.
  using TensorsOfLayers = std::map<int64_t, std::map<std::string, at::Tensor>>;
  static absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> FromTensors(
      const std::string& origin, Activation activation, TensorsOfLayers layers);

  // The weights of a layer, checked against a step's heads and dim. InvalidArgument names the file,
  // what it holds and what is needed.
  absl::StatusOr<const HashAttentionLayer*> Layer(int64_t layer, int64_t query_heads,
                                                  int64_t kv_heads, int64_t dim) const;

  Activation activation() const { return activation_; }
  const std::map<int64_t, HashAttentionLayer>& layers() const { return layers_; }

 private:
  explicit HashAttentionWeights(std::string path) : path_(std::move(path)) {}

  std::string path_;
  Activation activation_ = Activation::kSilu;
  std::map<int64_t, HashAttentionLayer> layers_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_HASH_ATTENTION_WEIGHTS_H_
