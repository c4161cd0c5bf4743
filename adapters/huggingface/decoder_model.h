// DecoderModel: a Llama, Qwen2, Qwen3 or Mistral language model on LibTorch, one sequence at a
// time.
//
// Arithmetic follows transformers' modules step by step, roundings of bfloat16 included: RMSNorm
// and rotary angles in float32, everything else in the model's type. Attention is the caller's: the
// model appends to the KV cache and calls an AttentionFunction (HostAttention::Bind) for every
// layer with
//   q [1, heads, tokens, head dim], k and v views of the cache, causal, the position of the first
//   query, and the layer's sliding window.
#ifndef ADAPTERS_HUGGINGFACE_DECODER_MODEL_H_
#define ADAPTERS_HUGGINGFACE_DECODER_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"
#include "adapters/host_attention.h"
#include "adapters/huggingface/checkpoint.h"
#include "adapters/huggingface/decoder_weights.h"
#include "adapters/huggingface/kv_cache.h"
#include "adapters/huggingface/model_config.h"
#include "adapters/huggingface/rotary.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

struct DecoderOptions {
  std::string dtype = "auto";  // the checkpoint's; or "float32", "bfloat16"
  std::string device = "cpu";  // or "cuda", "cuda:1"
};

struct ForwardOptions {
  // Logits of the last so many tokens, at most all of them; 0 computes none.
  int64_t logits = 1;
  // Longer inputs are read in pieces of so many tokens, which bounds the memory for activations.
  // The result is the same but for rounding, except that maskers which look at how many queries
  // come together (`local`) see pieces. 0: one pass.
  int64_t tokens_per_pass = 0;
};

// Immutable; Forward may be called from several threads at once, with a cache each.
class DecoderModel {
 public:
  // Reads config.json and the weights of a checkpoint folder. Weights that keep their type stay in
  // the mapped file and are not copied. InvalidArgument or NotFound names file and tensor;
  // Unimplemented names what is not supported; FailedPrecondition if the device is missing.
  static absl::StatusOr<std::unique_ptr<const DecoderModel>> Load(
      const std::string& folder, const DecoderOptions& options = {});

  absl::StatusOr<KvCache> NewCache(int64_t capacity) const;

  // Reads `tokens` after those in the cache and appends them to it. Logits float32 [n, vocab], n =
  // min(options.logits, tokens). InvalidArgument: no tokens, or an id that is none of the
  // vocabulary; ResourceExhausted: the cache is full; or an error of the attention. After an error
  // the cache's length is what it was.
  absl::StatusOr<at::Tensor> Forward(absl::Span<const int32_t> tokens, KvCache* cache,
                                     const AttentionFunction& attention,
                                     const ForwardOptions& options = {}) const;

  const ModelConfig& config() const { return config_; }
  at::ScalarType type() const { return weights_.embedding.scalar_type(); }
  at::Device device() const { return weights_.embedding.device(); }

 private:
  DecoderModel(const ModelConfig& config, DecoderWeights weights);

  absl::StatusOr<at::Tensor> Pass(absl::Span<const int32_t> tokens, int64_t sequence_length,
                                  KvCache* cache, const AttentionFunction& attention) const;
  absl::StatusOr<at::Tensor> Attention(int64_t layer, const at::Tensor& x, const RotaryTable& table,
                                       KvCache* cache, int64_t first,
                                       const AttentionFunction& attention) const;

  ModelConfig config_;
  DecoderWeights weights_;
  Rotary rotary_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_DECODER_MODEL_H_
