// Writes files of index weights for tests.
#ifndef SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_TESTING_H_
#define SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sparse_attention {

using LayerTensors = std::map<std::string, at::Tensor>;

// float32 tensors as a safetensors file; a failure ends the test.
void WriteLayerFile(const std::string& path, const LayerTensors& tensors,
                    const std::map<std::string, std::string>& metadata);

// A layer of random HashAttention weights under "layers.{layer}.", dim -> hidden -> bits.
struct HashLayerShape {
  int64_t layer = 0;
  int64_t query_heads = 4;
  int64_t key_heads = 2;
  int64_t dim = 8;
  int64_t bits = 40;
  int64_t hidden = 6;
};
void WriteHashAttentionFile(const std::string& path, const std::vector<HashLayerShape>& layers);

// A layer of random lightning indexer weights with `heads` indexer heads of `width`.
struct IndexerLayerShape {
  int64_t layer = 0;
  int64_t query_heads = 4;
  int64_t kv_heads = 2;
  int64_t dim = 8;
  int64_t heads = 3;
  int64_t width = 5;
};
void WriteIndexerFile(const std::string& path, const std::vector<IndexerLayerShape>& layers);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_LAYER_FILE_TESTING_H_
