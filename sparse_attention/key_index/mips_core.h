// The transform of mips_transform.h, and the directions that queries are hashed by, without
// LibTorch. Every result is a function of its own head's vectors alone, bit for bit, wherever they
// lie and on every instruction set.
#ifndef SPARSE_ATTENTION_KEY_INDEX_MIPS_CORE_H_
#define SPARSE_ATTENTION_KEY_INDEX_MIPS_CORE_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"

namespace sparse_attention::cpu {

// The keys of one sequence and KV head.
struct MipsKeys {
  RowView rows;  // of `dim` elements
  Element element = Element::kFloat32;
  int64_t dim = 0;
};

struct MipsSphere {
  const float* centre = nullptr;  // [dim]
  float radius = 1;               // > 0
};

// The mean of keys [begin, end), zero without `centred`, to centre[dim]. Keys that are not finite
// take no part. scratch[dim].
void MipsCentre(const MipsKeys& keys, int64_t begin, int64_t end, bool centred, Isa isa,
                float* scratch, float* centre);

// The largest distance of keys [begin, end) from `centre`; 0 where there is none, keys that are not
// finite taking no part. scratch[dim].
float MipsDistance(const MipsKeys& keys, int64_t begin, int64_t end, const float* centre, Isa isa,
                   float* scratch);
// What stands for the radius where the largest distance is `distance`.
constexpr float MipsRadius(float distance) { return distance == 0 ? 1 : distance; }

// Keys [begin, end) on the unit sphere: out[end - begin][dim + 1].
void MipsTransformKeys(const MipsKeys& keys, int64_t begin, int64_t end, const MipsSphere& sphere,
                       Isa isa, float* out);

float VectorNorm(const float* x, int64_t n);

// A vector of no length has no direction; its length counts as this.
constexpr float kLeastNorm = 1e-30f;

// The sum of the directions of x[vectors][n], to sum[n].
void SumOfDirections(const float* x, int64_t vectors, int64_t n, float* sum);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_MIPS_CORE_H_
