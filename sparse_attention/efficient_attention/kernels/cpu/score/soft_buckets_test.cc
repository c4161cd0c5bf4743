#include "sparse_attention/efficient_attention/kernels/cpu/score/soft_buckets.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

class SoftBucketsTest : public IsaTest {
 protected:
  const SoftBucketKernels kernels_ = SoftBucketKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(SoftBucketsTest);

double Probability(const float* sides, int bits, double scale, int64_t bucket) {
  double product = 1;
  for (int p = 0; p < bits; ++p) {
    const double a = scale * std::tanh(static_cast<double>(sides[p]));
    product /= 1 + std::exp((bucket >> p & 1) != 0 ? -2 * a : 2 * a);
  }
  return product;
}

TEST_P(SoftBucketsTest, AreTheProbabilities) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    TestRandom random(seed);
    const int bits = static_cast<int>(seed < 16 ? seed + 1 : random.Between(1, 10));
    const int rows = static_cast<int>(random.Between(1, 9));
    const int64_t tables = random.Between(1, bits > 10 ? 2 : bits > 6 ? 9 : 200);
    const int64_t count = rows * tables;
    const float scale = random.OneIn(3) ? 4.f : 0.3f;
    Exact<float> sides(count * bits);
    for (int64_t i = 0; i < sides.size(); ++i) {
      sides[i] = random.OneIn(9) ? 0 : random.Normal() * (random.OneIn(5) ? 20.f : 1.f);
    }
    Guarded<float> halves(count * HalvesFloats(bits)), all(count << bits), sums(tables << bits);
    kernels_.halves(sides.data(), count, bits, scale, halves.data());
    kernels_.expand(halves.data(), count, bits, all.data());
    kernels_.expand_sum(halves.data(), rows, tables, bits, sums.data());
    ASSERT_TRUE(halves.intact() && all.intact() && sums.intact());
    const double roundings = bits * (16 + 6 * static_cast<double>(scale)) * 0x1p-24;
    const int64_t low = int64_t{1} << LowBits(bits);
    for (int64_t t = 0; t < tables; ++t) {
      for (int64_t e = 0; e < int64_t{1} << bits; ++e) {
        double sum = 0;
        for (int row = 0; row < rows; ++row) {
          const int64_t table = row * tables + t;
          const double exact = Probability(sides.data() + table * bits, bits, scale, e);
          const float entry = all[(table << bits) + e];
          ASSERT_NEAR(entry, exact, roundings * exact) << "entry " << e << " of " << bits;
          const float* const half = halves.data() + table * HalvesFloats(bits);
          ASSERT_EQ(entry, half[e % low] * half[low + e / low]);
          sum += exact;
        }
        ASSERT_NEAR(sums[(t << bits) + e], sum, (roundings + rows * 0x1p-24) * sum);
      }
    }
  }
}

TEST_P(SoftBucketsTest, OfWhatIsNotFinite) {
  CountCase(GetParam());
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float sides[] = {kInfinity, -kInfinity, 3, std::nanf("")};
  float halves[2 * 4], table[2 * 4];
  kernels_.halves(sides, 2, 2, 1, halves);
  kernels_.expand(halves, 2, 2, table);
  const double one = 1 / (1 + std::exp(-2.)), zero = 1 / (1 + std::exp(2.));
  const double expected[] = {zero * one, one * one, zero * zero, one * zero};
  for (int e = 0; e < 4; ++e) {
    EXPECT_NEAR(table[e], expected[e], 1e-6);
    EXPECT_TRUE(std::isnan(table[4 + e]));
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
