// Random masks for tests that replay.
#ifndef SPARSE_ATTENTION_MASK_RANDOM_MASK_H_
#define SPARSE_ATTENTION_MASK_RANDOM_MASK_H_

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// 0 up to `most` in each dimension, so that a few in a hundred shapes have no elements.
inline MaskShape RandomMaskShape(RandomTensors& random, int64_t most) {
  const auto size = [&] { return random.Chance(0.05) ? 0 : random.Integer(1, most); };
  const int64_t batch = size(), heads = size(), queries = size(), keys = size();
  return {batch, heads, queries, keys};
}

// Dense weights, float32 [batch, heads, queries, keys]: an entry is active with probability
// `density`; an active one is certain with probability `certain`, else its weight is uniform in
// [1/16, 1).
inline at::Tensor RandomMaskWeights(RandomTensors& random, const MaskShape& s, double density,
                                    double certain) {
  const auto draw = [&](double low, double high) {
    return random.Uniform({s.batch, s.heads, s.queries, s.keys}, low, high);
  };
  const at::Tensor active = draw(0, 1).lt(density);
  const at::Tensor sampled = draw(0, 1).ge(certain);
  return at::where(active, at::where(sampled, draw(1.0 / 16, 1), 1.0), 0.0);
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_MASK_RANDOM_MASK_H_
