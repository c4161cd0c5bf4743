#include "sparse_attention/efficient_attention/kernels/cpu/score/bucket_match.h"

#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

class BucketMatchTest : public IsaTest {
 protected:
  const BucketMatchKernels kernels_ = BucketMatchKernelsFor(GetParam());

  template <typename Bucket>
  void Check(TestRandom& random) {
    CountCase(GetParam());
    constexpr int kBits = 8 * sizeof(Bucket);
    const int32_t bits =
        static_cast<int32_t>(random.Between(kBits == 8 ? 1 : kBits / 2 + 1, kBits));
    const int32_t rows = static_cast<int32_t>(random.Between(1, kMaxScoreRows));
    const int32_t tables = static_cast<int32_t>(random.Between(1, random.OneIn(3) ? 40 : 10));
    const int64_t end = random.Between(0, random.OneIn(8) ? 5000 : 300);
    const int64_t begin = random.Between(0, end), n = end - begin, words = MatchWords(n);
    // Few values, of all bits, so that buckets are shared now and then.
    const uint64_t values = static_cast<uint64_t>(random.Between(2, 60 * tables));
    const uint64_t factor = random.Bits() | 1;
    const auto bucket = [&] { return (random.Bits() % values * factor) >> (64 - bits); };
    Exact<Bucket> queries(rows * tables);
    for (int64_t i = 0; i < queries.size(); ++i) queries[i] = static_cast<Bucket>(bucket());
    const int64_t stride = end + random.Between(0, 3);
    Exact<Bucket> buckets(end == 0 ? 0 : (tables - 1) * stride + end);
    for (int64_t i = 0; i < buckets.size(); ++i) buckets[i] = static_cast<Bucket>(bucket());
    const int64_t out_stride = words + random.Between(0, 2);
    Guarded<uint64_t> out(n == 0 ? 0 : (rows - 1) * out_stride + words);
    const BucketMatchProblem p = {rows, tables, bits, queries.data(), buckets.data(), stride};
    kernels_.match(p, begin, end, out.data(), out_stride);
    ASSERT_TRUE(out.intact());
    for (int r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < 64 * words; ++i) {
        bool shared = false;
        for (int32_t t = 0; t < tables && begin + i < end; ++t) {
          shared |= queries[r * tables + t] == buckets[t * stride + begin + i];
        }
        ASSERT_EQ(out[r * out_stride + i / 64] >> (i % 64) & 1, shared)
            << "row " << r << " key " << begin + i << " of " << end << ", bits " << bits;
      }
    }
  }
};
SA_INSTANTIATE_ISAS(BucketMatchTest);

TEST_P(BucketMatchTest, EqualsTheDefinition) {
  for (int i = 0; i < SeedCount(400); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    switch (seed % 4) {
      case 0:
        Check<uint8_t>(random);
        break;
      case 1:
        Check<uint16_t>(random);
        break;
      case 2:
        Check<uint32_t>(random);
        break;
      default:
        Check<uint64_t>(random);
    }
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
