#include "sparse_attention/key_index/socket_planes.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

namespace sparse_attention {
namespace {

constexpr uint32_t kHubSeed = 123464566;  // 123456789 + 7777
constexpr int64_t kBlock = 16;            // numbers that LibTorch transforms at a time
constexpr int64_t kPairs = kBlock / 2;

float Normal(double radius_uniform, double turn, bool sine) {
  const double radius = std::sqrt(-2 * std::log(radius_uniform));
  const double angle = 2 * std::numbers::pi * turn;
  return static_cast<float>(radius * (sine ? std::sin(angle) : std::cos(angle)));
}

// A whole block: number i and number i + 8 are a pair, of uniform numbers of 24 bits.
void FillBlock(std::mt19937& words, float* out) {
  double uniform[kBlock];
  for (double& u : uniform) u = (words() & 0xFFFFFF) * 0x1p-24;
  for (int64_t i = 0; i < kPairs; ++i) {
    out[i] = Normal(1 - uniform[i], uniform[i + kPairs], false);
    out[i + kPairs] = Normal(1 - uniform[i], uniform[i + kPairs], true);
  }
}

// Less than a block: one after the other, of uniform numbers of 53 bits.
void FillFew(std::mt19937& words, float* out, int64_t count) {
  const auto uniform = [&words] {
    const uint64_t high = words();
    return static_cast<double>((high << 32 | words()) & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  };
  for (int64_t i = 0; i < count; i += 2) {
    const double turn = uniform(), rest = uniform();
    out[i] = Normal(1 - rest, turn, false);
    if (i + 1 < count) out[i + 1] = Normal(1 - rest, turn, true);
  }
}

}  // namespace

FloatArray SocketPlanes(int64_t tables, int64_t bits, int64_t dim) {
  const int64_t count = tables * bits * dim;
  FloatArray planes = {{tables, bits, dim}, std::vector<float>(static_cast<size_t>(count))};
  std::mt19937 words(kHubSeed);
  float* const out = planes.values.data();
  if (count < kBlock) {
    FillFew(words, out, count);
    return planes;
  }
  // LibTorch draws all uniform numbers before it transforms them: `count` words, of which whole
  // blocks are used, and a block of its own over the last 16 numbers where some are left.
  const int64_t whole = count / kBlock * kBlock;
  for (int64_t i = 0; i < whole; i += kBlock) FillBlock(words, out + i);
  if (whole < count) {
    words.discard(static_cast<unsigned long long>(count - whole));
    FillBlock(words, out + count - kBlock);
  }
  return planes;
}

}  // namespace sparse_attention
