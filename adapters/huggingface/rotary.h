// Rotary position embedding: each pair (x_i, x_{i + dim/2}) of a head turns by position *
// frequency_i. Scaling types default, linear, dynamic, llama3 and yarn; numbers as in transformers
// 5.
#ifndef ADAPTERS_HUGGINGFACE_ROTARY_H_
#define ADAPTERS_HUGGINGFACE_ROTARY_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "adapters/huggingface/model_config.h"

namespace sparse_attention {

// cos and sin of consecutive positions, [tokens, head dim / 2], in the model's type.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

class Rotary {
 public:
  Rotary(const RopeConfig& config, int64_t head_dim, at::Device device);

  // `sequence_length`: all tokens including these; dynamic scaling depends on it. Keys that are
  // cached keep the frequencies that they were turned with.
  RotaryTable Table(int64_t first_position, int64_t tokens, int64_t sequence_length,
                    at::ScalarType type) const;

 private:
  at::Tensor DynamicFrequencies(int64_t sequence_length) const;

  RopeConfig config_;
  int64_t head_dim_;
  at::Tensor frequencies_;  // float32 [head dim / 2]
};

// out = x turned, x [1, heads, tokens, head dim]; `out` has the same shape and must not overlap x.
void ApplyRotary(const at::Tensor& x, const RotaryTable& table, at::Tensor& out);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_ROTARY_H_
