// The transform that makes inner products angles: keys are centred and put on a unit sphere of one
// dimension more, so that the key with the largest product with a (centred) query is the one at the
// smallest angle. Neyshabur and Srebro, ICML 2015; used by MagicPIG (Chen et al., ICLR 2025).
//
//   k^ = [(k - centre) / radius, sqrt(1 - |k - centre|^2 / radius^2)],  q^ = [q / |q|, 0]
//   cos(q^, k^) = q . (k - centre) / (|q| radius)
//
// Centring keys shifts all logits of a query alike, which attention does not see, and spreads the
// angles. The Python hub centres queries, too, which changes the order of the keys.
#ifndef SPARSE_ATTENTION_KEY_INDEX_MIPS_TRANSFORM_H_
#define SPARSE_ATTENTION_KEY_INDEX_MIPS_TRANSFORM_H_

#include <ATen/core/Tensor.h>

namespace sparse_attention {

struct MipsTransform {
  at::Tensor centre;  // float32 [batch, KV heads, 1, dim]
  at::Tensor radius;  // float32 [batch, KV heads, 1, 1], > 0
  bool like_hub = false;

  // The mean of keys [batch, KV heads, n, dim] (zero without `centred`) and the largest distance
  // from it. Like the hub: queries are centred, and one radius, the largest, serves all sequences
  // and heads. Keys that are not finite take no part.
  static MipsTransform Fit(const at::Tensor& keys, bool centred, bool like_hub);

  // The largest distance of the keys from `centre`, 1 where all lie in it.
  static at::Tensor Radius(const at::Tensor& keys, const at::Tensor& centre, bool global);

  // True where every key of a head that is finite lies within its radius: keys [batch, KV heads, n,
  // dim] to bool [batch, KV heads, 1, 1].
  at::Tensor Holds(const at::Tensor& keys) const;

  at::Tensor Keys(const at::Tensor& keys) const;  // float32 [batch, KV heads, n, dim + 1]
  at::Tensor CentredQueries(
      const at::Tensor& queries) const;                 // float32, as they are but by the hub
  at::Tensor Queries(const at::Tensor& queries) const;  // float32 [batch, query heads, m, dim + 1]

  // For query heads that are hashed together: the sum of their directions, vectors float32 [batch,
  // query heads, m, dim] to [batch, KV heads, m, dim].
  static at::Tensor SumsOfDirections(const at::Tensor& vectors, int64_t kv_heads);
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_MIPS_TRANSFORM_H_
