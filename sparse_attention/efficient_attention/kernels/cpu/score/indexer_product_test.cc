#include "sparse_attention/efficient_attention/kernels/cpu/score/indexer_product.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class IndexerProductTest : public IsaTest {
 protected:
  const IndexerKernels kernels_ = IndexerKernelsFor(GetParam());

  void Check(TestRandom& random) {
    CountCase(GetParam());
    const int32_t width = static_cast<int32_t>(random.OneIn(3) ? 64 : random.Between(1, 140));
    const int32_t heads = static_cast<int32_t>(random.Between(1, 20));
    const int64_t end = random.Between(0, 40), begin = random.Between(0, end);
    const int64_t key_stride = width + random.Between(0, 3);
    const bool not_finite = random.OneIn(6);
    const auto number = [&] {
      if (not_finite && random.OneIn(20 * width)) {
        return random.OneIn(2) ? std::nanf("") : random.OneIn(2) ? kInfinity : -kInfinity;
      }
      return random.Normal();
    };
    Exact<float> queries(heads * width), gates(heads);
    Exact<float> keys(end == 0 ? 0 : (end - 1) * key_stride + width);
    for (int64_t i = 0; i < queries.size(); ++i) queries[i] = number();
    for (int64_t i = 0; i < gates.size(); ++i) gates[i] = number();
    for (int64_t i = 0; i < keys.size(); ++i) keys[i] = number();
    Guarded<float> out(end - begin);
    kernels_.score({width, heads, queries.data(), gates.data(), keys.data(), key_stride}, begin,
                   end, out.data());
    ASSERT_TRUE(out.intact());
    for (int64_t j = begin; j < end; ++j) {
      double exact = 0, magnitude = 0, gate_sum = 0;
      for (int32_t h = 0; h < heads; ++h) {
        double product = 0, size = 0;
        for (int32_t i = 0; i < width; ++i) {
          const double x = static_cast<double>(queries[h * width + i]) * keys[j * key_stride + i];
          product += x;
          size += std::abs(x);
        }
        exact += gates[h] * (product < 0 ? 0 : product);
        magnitude += std::abs(gates[h]) * size;
        gate_sum += std::abs(gates[h]);
      }
      const float got = out[j - begin];
      if (!std::isfinite(exact)) {
        ASSERT_TRUE(std::isnan(exact) ? std::isnan(got) : got == exact) << got << " for " << exact;
        continue;
      }
      if (!std::isfinite(magnitude)) continue;  // relu of -inf
      const double m = width + heads + 8, u = m * 0x1p-24;
      ASSERT_LE(std::abs(got - exact), u / (1 - u) * magnitude + 0x1p-126 * m * (1 + gate_sum))
          << got << " for " << exact << ", key " << j;
    }
  }
};
SA_INSTANTIATE_ISAS(IndexerProductTest);

TEST_P(IndexerProductTest, ScoresWithinTheRoundingBound) {
  for (int i = 0; i < SeedCount(600); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    Check(random);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
