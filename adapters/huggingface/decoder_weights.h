// The parameters of a decoder as tensors, found in a checkpoint by their transformers names and
// checked against the config's shapes.
#ifndef ADAPTERS_HUGGINGFACE_DECODER_WEIGHTS_H_
#define ADAPTERS_HUGGINGFACE_DECODER_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "adapters/huggingface/checkpoint.h"
#include "adapters/huggingface/model_config.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

// y = x W^T + b
struct LinearWeights {
  at::Tensor weight;               // [out, in]
  std::optional<at::Tensor> bias;  // [out]
};

struct LayerWeights {
  at::Tensor input_norm;           // [hidden]
  LinearWeights q, k, v, o;        // q [heads * head dim, hidden]; k, v [KV heads * head dim, ...]
  at::Tensor q_norm, k_norm;       // [head dim], undefined unless the family has them
  at::Tensor post_attention_norm;  // [hidden]
  LinearWeights gate, up, down;    // gate, up [intermediate, hidden]
};

struct DecoderWeights {
  at::Tensor embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  at::Tensor final_norm;  // [hidden]
  at::Tensor lm_head;     // [vocab, hidden]; the embedding where they are tied
};

// Tensors that already have `type` (absent: the embedding's) and are wanted on the CPU are views of
// the mapped files, which they keep open, and must not be written to. InvalidArgument or NotFound
// names the file, the tensor and the expected shape.
absl::StatusOr<DecoderWeights> LoadDecoderWeights(const std::shared_ptr<const Checkpoint>& files,
                                                  const ModelConfig& config,
                                                  std::optional<at::ScalarType> type,
                                                  at::Device device);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_DECODER_WEIGHTS_H_
