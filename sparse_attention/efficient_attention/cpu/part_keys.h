// How the keys of an item are cut into parts that threads can share. It depends on the item alone,
// so that results do not depend on threads or on the batch.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PART_KEYS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PART_KEYS_H_

#include <cstdint>

namespace sparse_attention::cpu {

// Positions of a part, a multiple of a bitmap word's keys; and how many rows are to be read in it:
// where fewer are, parts are two, four, ... times as long. To begin anew costs about as much as
// reading 20 rows.
constexpr int64_t kPartKeys = 16384;
constexpr int64_t kPartRows = 2048;

// Positions of a part where `rows` rows are read among `keys` keys that end at position `end`.
constexpr int64_t PartKeys(int64_t rows, int64_t keys, int64_t end) {
  int64_t part_keys = kPartKeys;
  while (part_keys < end && rows * part_keys < kPartRows * keys) part_keys *= 2;
  return part_keys;
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PART_KEYS_H_
