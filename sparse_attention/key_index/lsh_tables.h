// Locality-sensitive hashing of directions: random planes cut the space into buckets, and vectors
// at a small angle share one with a known probability (SimHash: Charikar, STOC 2002). A table has
// `bits` planes; a vector's bucket in it is the pattern of sides that it lies on.
#ifndef SPARSE_ATTENTION_KEY_INDEX_LSH_TABLES_H_
#define SPARSE_ATTENTION_KEY_INDEX_LSH_TABLES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sparse_attention/key_index/growing_tensor.h"
#include "sparse_attention/key_index/sign_bits.h"

namespace sparse_attention {

struct HashRule {
  BitOrder order = BitOrder::kLowestFirst;
  // Which side of a plane a vector in it counts to; a vector of zeros lies in every plane.
  bool zero_is_one = false;
};

// The bucket of each vector of x [batch, heads, n, dim] in each table: [batch, heads, tables, n],
// in the narrowest of uint8, int16, int32 and int64 that holds all of them as non-negative numbers
// (at 64 bits int64, the highest bit as its sign). `planes` float32 [tables, bits, dim] on x's
// device, bits in [1, 64].
at::Tensor HashBuckets(const at::Tensor& x, const at::Tensor& planes, const HashRule& rule);

// True where query and key share a bucket in at least one table: q_buckets [batch, query heads,
// tables, queries], k_buckets [batch, KV heads, tables, n] of the same type to bool [batch, query
// heads, queries, n].
at::Tensor ShareABucket(const at::Tensor& q_buckets, const at::Tensor& k_buckets);

// The probability that vectors at an angle share a bucket in at least one of `tables` tables of
// `bits` random planes: 1 - (1 - p^bits)^tables with p = 1 - angle / pi. Of each cosine in [-1, 1];
// float64.
at::Tensor CollisionProbability(const at::Tensor& cosine, int64_t bits, int64_t tables);

// Soft membership of queries in buckets (Socket): the probability of the pattern whose bit p is 1
// with probability 1 / (1 + exp(-2 a_p)), highest bit first. `a` float32 [..., bits] to [...,
// 2^bits].
at::Tensor SoftBuckets(const at::Tensor& a);

// The buckets of all keys in every table. Memory: tables * (1, 2, 4 or 8) bytes a key and KV head.
class LshTables {
 public:
  LshTables(const at::Tensor& planes, const HashRule& rule) : planes_(planes), rule_(rule) {}

  // Puts x [batch, KV heads, n, dim] behind the first `begin` vectors.
  void Set(int64_t begin, const at::Tensor& x) {
    buckets_.Set(begin, HashBuckets(x, planes_, rule_));
  }
  at::Tensor HashQueries(const at::Tensor& q) const { return HashBuckets(q, planes_, rule_); }

  at::Tensor buckets() const { return buckets_.view(); }  // [batch, KV heads, tables, n]
  const at::Tensor& planes() const { return planes_; }

 private:
  at::Tensor planes_;
  HashRule rule_;
  GrowingTensor buckets_{3};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_LSH_TABLES_H_
