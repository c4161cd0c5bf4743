#include "sparse_attention/key_index/hash_core.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class HashCoreTest : public IsaTest {};

template <typename Bucket>
void ExpectBuckets(uint64_t seed, int64_t most_bits, Isa isa) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << ", bits up to " << most_bits);
  CountCase(isa);
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  const auto below = [&](int64_t bound) {
    return static_cast<int64_t>(engine() % static_cast<uint64_t>(bound));
  };
  HashPlanes planes;
  planes.bits = 1 + below(most_bits);
  planes.tables = below(12);
  planes.dim = 1 + below(130);
  planes.zero_is_one = seed % 2 == 0;
  const bool highest_first = seed % 3 == 0;
  const int64_t rows = below(70);
  std::vector<float> directions(planes.tables * planes.bits * planes.dim), x(rows * planes.dim);
  for (float& value : directions) value = normal(engine);
  for (float& value : x) value = normal(engine);
  for (int64_t j = 0; j < rows; j += 5) {  // in every plane
    std::fill_n(x.begin() + j * planes.dim, planes.dim, 0.f);
  }
  std::vector<float> packed(PackedPlaneFloats(planes.tables, planes.bits, planes.dim));
  PackPlanes(directions.data(), planes.tables, planes.bits, planes.dim, highest_first,
             packed.data());
  planes.packed = packed.data();
  std::vector<float> scratch(HashScratchFloats(planes) + 1, -77.f);
  const bool by_rows = below(2) == 0;
  const int64_t table_stride = by_rows ? 1 : rows + 1, row_stride = by_rows ? planes.tables + 1 : 1;
  const Bucket guard = 77;
  std::vector<Bucket> buckets((rows + 1) * (planes.tables + 1), guard), expected = buckets;
  HashRows(planes, x.data(), rows, isa, scratch.data(), buckets.data(), table_stride, row_stride);
  for (int64_t t = 0; t < planes.tables; ++t) {
    for (int64_t j = 0; j < rows; ++j) {
      uint64_t bucket = 0;
      for (int64_t bit = 0; bit < planes.bits; ++bit) {
        float side = 0;
        for (int64_t i = 0; i < planes.dim; ++i) {
          side += x[j * planes.dim + i] * directions[(t * planes.bits + bit) * planes.dim + i];
        }
        const bool one = side > 0 || (planes.zero_is_one && side == 0);
        bucket |= uint64_t{one} << (highest_first ? planes.bits - 1 - bit : bit);
      }
      expected[t * table_stride + j * row_stride] = static_cast<Bucket>(bucket);
    }
  }
  EXPECT_EQ(buckets, expected);
  EXPECT_EQ(scratch.back(), -77.f);
}

TEST_P(HashCoreTest, BucketsAreThoseOfPlainLoops) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    ExpectBuckets<uint8_t>(seed, 8, GetParam());
    ExpectBuckets<int16_t>(seed, 15, GetParam());
    ExpectBuckets<int32_t>(seed, 31, GetParam());
    ExpectBuckets<int64_t>(seed, 64, GetParam());
  }
}

SA_INSTANTIATE_ISAS(HashCoreTest);

}  // namespace
}  // namespace sparse_attention::cpu
