// What methods score keys by, from their definitions and apart from the efficient engine: tests
// need it to tell a choice that rounding decides from a wrong one.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_SCORES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_SCORES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/key_index/mips_transform.h"

namespace sparse_attention {

// The scores by which the entry `masker` of `pipeline` ranks keys in the last of `steps`, which are
// those of its session so far, a prefix without queries among them: [batch, query heads, queries,
// keys], one row for the heads of a group where they select together. For every top-k method but
// HashAttention, whose scores are whole numbers.
at::Tensor MethodScores(const Json& pipeline, const Json& masker,
                        std::span<const AttentionInputs> steps);

// Keys, as MethodScores, whose choice by the snap_kv entry `masker` rounding cannot decide: their
// vote is not that of the last key within the budget. SnapKV chooses also keys that are held or not
// seen, so what it adds may differ in number.
at::Tensor FarFromLastVote(const Json& pipeline, const Json& masker,
                           std::span<const AttentionInputs> steps);

// The "heavy_size" of an entry.
Budget HeavySize(const Json& masker);

// One row for the query heads of a group, [batch, heads, ...], if they select together.
at::Tensor OfGroups(const at::Tensor& x, const AttentionInputs& step, const Json& pipeline);

// Rows of `selected`, the keys that the oracle_top_p entry `masker` added to those `held`, that are
// not the fewest keys with its share of the mass, which is known to `rounding`.
at::Tensor NotTopP(const at::Tensor& selected, const at::Tensor& held, const AttentionInputs& step,
                   const Json& pipeline, const Json& masker, double rounding);

// Centre and radius of each head as the steps of a MagicPIG session leave them.
class Spheres {
 public:
  explicit Spheres(bool centred) : centred_(centred) {}
  const MipsTransform& Follow(const at::Tensor& keys);

 private:
  const bool centred_;
  MipsTransform transform_;
};

// Cosines of the angles between what is hashed for a row and the keys, float64; an inner product in
// float32 knows them to CosineRounding.
at::Tensor HashedCosines(const AttentionInputs& step, const MipsTransform& sphere, bool by_group);
double CosineRounding(const AttentionInputs& step, bool by_group);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_SCORES_H_
