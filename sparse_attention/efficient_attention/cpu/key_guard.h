// KeyGuard: notices that a host's cache no longer holds the keys that the indexes took in.
//
// A host appends keys, or cuts its cache back and goes on differently. Reading all keys at every
// step to be sure, as the research engine does, would cost as much as dense attention; so of every
// position a fingerprint of the first KV head's key is kept, 8 bytes, and a step looks at the
// latest positions and at some scattered ones. What a cut and a new continuation change lies among
// the latest; an edit of a few keys far back may go unnoticed, and needs a fresh session.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KEY_GUARD_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KEY_GUARD_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"

namespace sparse_attention::cpu {

class KeyGuard {
 public:
  // Of sequences up to `capacity` keys whose rows have `row_bytes`.
  KeyGuard(int64_t capacity, int64_t row_bytes) : row_bytes_(row_bytes) {
    fingerprints_.reserve(static_cast<size_t>(capacity));
  }

  // How many leading keys of `rows` [length] are as they were; then remembers all of them.
  int64_t Update(const RowView& rows, int64_t length);
  void Truncate(int64_t length) {
    if (length < covered()) fingerprints_.resize(static_cast<size_t>(length));
  }
  int64_t covered() const { return static_cast<int64_t>(fingerprints_.size()); }

 private:
  uint64_t Fingerprint(const RowView& rows, int64_t key) const;
  bool Agrees(const RowView& rows, int64_t key) const {
    return fingerprints_[static_cast<size_t>(key)] == Fingerprint(rows, key);
  }

  int64_t row_bytes_;
  std::vector<uint64_t> fingerprints_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KEY_GUARD_H_
