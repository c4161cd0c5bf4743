// KeyLedger: knows the keys that an index covers, by a 64-bit fingerprint a position, so that
// appended keys extend an index and a changed prefix is noticed.
//
// A fingerprint sums, over sequences and heads, NH of the row's bits (Black et al., UMAC, CRYPTO
// 1999): two different rows collide with probability about 2^-32 a word pair over the choice of its
// constants. It costs one read of the keys a step and 8 bytes a position, whatever the heads.
#ifndef SPARSE_ATTENTION_KEY_INDEX_KEY_LEDGER_H_
#define SPARSE_ATTENTION_KEY_INDEX_KEY_LEDGER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sparse_attention {

// The fingerprint of each position of `x` [batch, heads, n, dim], of any type; the same on every
// device. 0 and -0, and different NaNs, differ.
std::vector<uint64_t> RowFingerprints(const at::Tensor& x);

class KeyLedger {
 public:
  // The number of leading positions of `x` [batch, heads, n, dim] that are as they were at the last
  // call; 0 at the first one and where batch, heads, dim, type or device differ. Then remembers
  // `x`.
  int64_t Update(const at::Tensor& x);

 private:
  std::vector<uint64_t> rows_;
  at::Tensor shape_and_type_;  // without elements
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_KEY_LEDGER_H_
