// Buckets of locality-sensitive hashes by random planes, without LibTorch: lsh_tables.h says what
// they mean.
#ifndef SPARSE_ATTENTION_KEY_INDEX_HASH_CORE_H_
#define SPARSE_ATTENTION_KEY_INDEX_HASH_CORE_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {

// `tables` tables of `bits` planes of dim `dim`.
struct HashPlanes {
  const float* packed = nullptr;  // PackedPlaneFloats, by PackPlanes
  int64_t tables = 0;
  int64_t bits = 0;  // in [1, 64]
  int64_t dim = 0;
  bool zero_is_one = false;  // which side of a plane a vector in it counts to
};

constexpr int64_t PackedPlaneFloats(int64_t tables, int64_t bits, int64_t dim) {
  return TiledFloats(dim, tables * bits);
}
// planes [tables][bits][dim]; with highest_first the first plane of a table gives the highest bit
// of its bucket, else the lowest.
void PackPlanes(const float* planes, int64_t tables, int64_t bits, int64_t dim, bool highest_first,
                float* packed);

// Floats of scratch, whatever the number of rows.
int64_t HashScratchFloats(const HashPlanes& planes);

// The bucket of row j of x [rows][dim] in table t goes to buckets[t * table_stride + j *
// row_stride]. The rows may be keys of one head or, with one weight read for all, heads of one key.
// Bucket: uint8_t, int16_t, int32_t or int64_t, wide enough for `bits` bits.
template <typename Bucket>
void HashRows(const HashPlanes& planes, const float* x, int64_t rows, Isa isa, float* scratch,
              Bucket* buckets, int64_t table_stride, int64_t row_stride);

// The probability that vectors at an angle with this cosine share a bucket in at least one of
// `tables` tables of `bits` random planes: 1 - (1 - p^bits)^tables with p = 1 - angle / pi. NaN of
// NaN; a cosine beyond [-1, 1] counts as the nearest of it.
double CollisionProbability(double cosine, int64_t bits, int64_t tables);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_HASH_CORE_H_
