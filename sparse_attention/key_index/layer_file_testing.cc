#include "sparse_attention/key_index/layer_file_testing.h"

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/safetensors/safetensors_writer.h"

namespace sparse_attention {

void WriteLayerFile(const std::string& path, const LayerTensors& tensors,
                    const std::map<std::string, std::string>& metadata) {
  std::vector<TensorView> views;
  std::vector<at::Tensor> held;
  for (const auto& [name, tensor] : tensors) {
    held.push_back(tensor.to(at::kFloat).contiguous());
    TensorView view;
    view.name = name;
    view.shape = tensor.sizes().vec();
    view.data = static_cast<const std::byte*>(held.back().const_data_ptr());
    view.bytes = held.back().nbytes();
    views.push_back(view);
  }
  SA_CHECK_OK(WriteSafetensors(path, views, metadata));
}

void WriteHashAttentionFile(const std::string& path, const std::vector<HashLayerShape>& layers) {
  RandomTensors random(11);
  LayerTensors tensors;
  for (const HashLayerShape& s : layers) {
    for (const auto& [side, heads] :
         {std::pair{"query", s.query_heads}, std::pair{"key", s.key_heads}}) {
      const std::string prefix = absl::StrCat("layers.", s.layer, ".", side, ".");
      tensors[prefix + "0.weight"] = random.Normal({heads, s.dim, s.hidden});
      tensors[prefix + "0.bias"] = random.Normal({heads, s.hidden});
      tensors[prefix + "1.weight"] = random.Normal({heads, s.hidden, s.bits});
      tensors[prefix + "1.bias"] = random.Normal({heads, s.bits});
    }
  }
  WriteLayerFile(path, tensors, {{"format", "sah.hash_attention.v1"}, {"activation", "tanh"}});
}

void WriteIndexerFile(const std::string& path, const std::vector<IndexerLayerShape>& layers) {
  RandomTensors random(12);
  LayerTensors tensors;
  for (const IndexerLayerShape& s : layers) {
    const std::string prefix = absl::StrCat("layers.", s.layer, ".");
    tensors[prefix + "query.weight"] = random.Normal({s.heads, s.query_heads * s.dim, s.width});
    tensors[prefix + "key.weight"] = random.Normal({s.kv_heads * s.dim, s.width});
    tensors[prefix + "gate.weight"] = random.Normal({s.query_heads * s.dim, s.heads});
  }
  WriteLayerFile(path, tensors, {{"format", "sah.lightning_indexer.v1"}});
}

}  // namespace sparse_attention
