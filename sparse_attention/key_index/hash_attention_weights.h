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
// hub's pickle, which is not read here: a pickle can run any code. LibTorch-free.
#ifndef SPARSE_ATTENTION_KEY_INDEX_HASH_ATTENTION_WEIGHTS_H_
#define SPARSE_ATTENTION_KEY_INDEX_HASH_ATTENTION_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/activation.h"
#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

// One linear map a head: x . weight + bias.
struct LinearWeights {
  FloatArray weight;  // [heads, in, out]
  FloatArray bias;    // [heads, out]
};

struct MlpWeights {
  std::vector<LinearWeights> linears;  // at least one

  int64_t heads() const { return linears.front().weight.size(0); }
  int64_t dim() const { return linears.front().weight.size(1); }
  int64_t bits() const { return linears.back().weight.size(2); }
};

struct HashAttentionLayer {
  MlpWeights query, key;
};

class HashAttentionWeights {
 public:
  // Every shape is checked: equal bits of queries and keys, equal dims, matching chains. NotFound,
  // InvalidArgument or Unimplemented name the file and the tensor.
  static absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> Load(const std::string& path);

  // The same of arrays: layer -> "query.0.weight" and so on. `origin` stands for the path in
  // messages.
  using ArraysOfLayers = std::map<int64_t, std::map<std::string, FloatArray>>;
  static absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> FromArrays(
      const std::string& origin, Activation activation, ArraysOfLayers layers);

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
