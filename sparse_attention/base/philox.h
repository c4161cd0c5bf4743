// Philox4x32-10, the counter-based random number generator of every random draw in this project.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The
// output is a pure function of (key, counter), so a draw does not depend on batch, order, threads
// or device. The key is the seed of a pipeline; a counter is (layer and purpose, query head or
// group, absolute query position, draw).
#ifndef SPARSE_ATTENTION_BASE_PHILOX_H_
#define SPARSE_ATTENTION_BASE_PHILOX_H_

#include <array>
#include <cstdint>

#include "sparse_attention/base/status.h"

namespace sparse_attention {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// Four uniformly distributed 32-bit words for one counter.
constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53;
  constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
  constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

constexpr PhiloxKey PhiloxKeyFromSeed(uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

// What a stream of draws is for; different purposes never share a counter.
enum class RandomPurpose : uint32_t {
  kRandomSampling = 0,
  kAdaptiveBaseSample = 1,
  kAdaptiveSample = 2,
  kTaskData = 3,
  kPqCodebook = 4,
  kHashPlanes = 5,
  kTest = 255,
};

// The sequence of draws that belongs to one (purpose, layer, head or group, query position).
class PhiloxStream {
 public:
  // `layer` must be below 2^24; `head` is the query head, or the KV head where a group shares its
  // draws.
  PhiloxStream(uint64_t seed, RandomPurpose purpose, uint32_t layer, uint32_t head,
               uint32_t position)
      : key_(PhiloxKeyFromSeed(seed)),
        counter_{static_cast<uint32_t>(purpose) << 24 | layer, head, position, 0} {
    SA_CHECK(layer < (1u << 24));
  }

  // The next 32-bit word.
  uint32_t Next() {
    if (used_ == 4) {
      words_ = Philox4x32(counter_, key_);
      ++counter_[3];
      used_ = 0;
    }
    return words_[used_++];
  }

  // Uniform in [0, bound), exactly: words that would favour small values are skipped (Lemire 2019).
  // 0 < bound.
  uint32_t Below(uint32_t bound) {
    uint64_t product = uint64_t{Next()} * bound;
    if (static_cast<uint32_t>(product) < bound) {
      const uint32_t threshold = -bound % bound;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{Next()} * bound;
    }
    return static_cast<uint32_t>(product >> 32);
  }

  // Uniform in [0, 1), 24 bits, the same in float and double.
  double Uniform() { return (Next() >> 8) * 0x1p-24; }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  PhiloxCounter words_ = {};
  int used_ = 4;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_PHILOX_H_
