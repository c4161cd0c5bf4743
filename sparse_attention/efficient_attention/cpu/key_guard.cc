#include "sparse_attention/efficient_attention/cpu/key_guard.h"

#include <algorithm>
#include <cstring>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kLatest = 64;     // positions that every step looks at
constexpr int64_t kScattered = 16;  // and these, evenly apart

uint64_t Mix(uint64_t x) {  // the finaliser of SplitMix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t KeyGuard::Fingerprint(const RowView& rows, int64_t key) const {
  const char* const row = rows.Row(key);
  // Four sums, so that multiplications overlap.
  uint64_t sums[4] = {1, 2, 3, 4};
  int64_t at = 0;
  for (int lane = 0; at + 8 <= row_bytes_; at += 8, lane = (lane + 1) % 4) {
    uint64_t word;
    std::memcpy(&word, row + at, 8);
    sums[lane] = (sums[lane] ^ word) * 0x9E3779B97F4A7C15u;
    sums[lane] ^= sums[lane] >> 32;
  }
  uint64_t rest = 0;
  std::memcpy(&rest, row + at, static_cast<size_t>(row_bytes_ - at));
  return Mix(sums[0] + Mix(sums[1] + Mix(sums[2] + Mix(sums[3] + rest))));
}

int64_t KeyGuard::Update(const RowView& rows, int64_t length) {
  int64_t unchanged = std::min(length, covered());
  bool same = true;
  for (int64_t key = std::max<int64_t>(0, unchanged - kLatest); same && key < unchanged; ++key) {
    same = Agrees(rows, key);
  }
  for (int64_t i = 0; same && i < kScattered && unchanged > kLatest; ++i) {
    same = Agrees(rows, i * (unchanged - kLatest) / kScattered);
  }
  if (!same) {
    int64_t key = 0;
    while (key < unchanged && Agrees(rows, key)) ++key;
    unchanged = key;
  }
  Truncate(unchanged);
  for (int64_t key = unchanged; key < length; ++key) {
    fingerprints_.push_back(Fingerprint(rows, key));
  }
  return unchanged;
}

}  // namespace sparse_attention::cpu
