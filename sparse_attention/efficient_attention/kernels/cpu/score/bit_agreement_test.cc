#include "sparse_attention/efficient_attention/kernels/cpu/score/bit_agreement.h"

#include <bit>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

class BitAgreementTest : public IsaTest {
 protected:
  const BitAgreementKernels kernels_ = BitAgreementKernelsFor(GetParam());

  template <typename Out>
  void Run(const BitAgreementProblem& p, int64_t begin, int64_t end, Out* out, int64_t stride) {
    if constexpr (sizeof(Out) == 1) {
      kernels_.score8(p, begin, end, out, stride);
    } else {
      kernels_.score16(p, begin, end, out, stride);
    }
  }

  template <typename Out>
  void Check(TestRandom& random) {
    const int32_t rows = static_cast<int32_t>(random.Between(1, kMaxScoreRows));
    const bool large = sizeof(Out) == 2 && random.OneIn(20);
    const int32_t bits =
        random.OneIn(3) ? 32 : static_cast<int32_t>(random.Between(1, large ? 2048 : 200));
    const RowReduce reduce = random.OneOf(kRowReduces);
    if (MostAgreement(bits, rows, reduce) > (sizeof(Out) == 1 ? 255 : 65535)) return;
    CountCase(GetParam());
    const int words = SignatureWords(bits);
    const int64_t end = random.Between(0, 300), begin = random.Between(0, end);
    const int64_t word_stride = end + random.Between(0, 3);
    Exact<uint32_t> queries(rows * words), keys(end == 0 ? 0 : (words - 1) * word_stride + end);
    const uint32_t last = bits % 32 == 0 ? ~0u : (1u << bits % 32) - 1;
    const bool alike = random.OneIn(3);  // many bits agree
    const auto word = [&](int w) {
      uint32_t x = static_cast<uint32_t>(random.Bits());
      if (alike) x |= static_cast<uint32_t>(random.Bits() | random.Bits());
      return w == words - 1 ? x & last : x;
    };
    for (int r = 0; r < rows; ++r) {
      for (int w = 0; w < words; ++w) queries[r * words + w] = word(w);
    }
    for (int w = 0; w < words; ++w) {
      for (int64_t j = 0; j < end; ++j) keys[w * word_stride + j] = word(w);
    }
    const int64_t n = end - begin, stride = n + random.Between(0, 5);
    const int lines = reduce == RowReduce::kNone ? rows : 1;
    Guarded<Out> out(n == 0 ? 0 : (lines - 1) * stride + n);
    Run(BitAgreementProblem{bits, rows, queries.data(), keys.data(), word_stride, reduce}, begin,
        end, out.data(), stride);
    ASSERT_TRUE(out.intact());
    for (int64_t j = begin; j < end; ++j) {
      std::vector<double> agreement(rows);
      for (int r = 0; r < rows; ++r) {
        int differing = 0;
        for (int w = 0; w < words; ++w) {
          differing += std::popcount(queries[r * words + w] ^ keys[w * word_stride + j]);
        }
        agreement[r] = bits - differing;
        if (reduce == RowReduce::kNone) {
          ASSERT_EQ(out[r * stride + j - begin], agreement[r]) << "row " << r << " key " << j;
        }
      }
      if (reduce == RowReduce::kNone) continue;
      const double expected =
          ReduceRows(agreement.data(), rows, reduce == RowReduce::kMean ? RowReduce::kSum : reduce);
      ASSERT_EQ(out[j - begin], expected) << "key " << j << " bits " << bits << " rows " << rows;
    }
  }
};
SA_INSTANTIATE_ISAS(BitAgreementTest);

TEST_P(BitAgreementTest, EqualsTheDefinition) {
  for (int i = 0; i < SeedCount(1000); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    if (seed % 2 == 0) {
      Check<uint8_t>(random);
    } else {
      Check<uint16_t>(random);
    }
    if (HasFatalFailure()) return;
  }
}

// 16 rows of 2,048 bits that all agree: the largest sum.
TEST_P(BitAgreementTest, TheLargestSum) {
  CountCase(GetParam());
  std::vector<uint32_t> queries(16 * 64, 0xFFFFFFFF), keys(64 * 70, 0xFFFFFFFF);
  std::vector<uint16_t> out(70);
  kernels_.score16({2048, 16, queries.data(), keys.data(), 70, RowReduce::kSum}, 0, 70, out.data(),
                   0);
  EXPECT_EQ(out, std::vector<uint16_t>(70, 32768));
}

TEST_P(BitAgreementTest, PacksSignsBehindOldKeys) {
  for (int i = 0; i < SeedCount(200); ++i) {
    CountCase(GetParam());
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    const int32_t bits = static_cast<int32_t>(random.Between(1, 100));
    const int words = SignatureWords(bits);
    const int64_t count = random.Between(0, 5), first = random.Between(0, 5);
    const int64_t stride = bits + random.Between(0, 3), word_stride = first + count + 1;
    Exact<float> outputs(count == 0 ? 0 : (count - 1) * stride + bits);
    for (int64_t k = 0; k < outputs.size(); ++k) {
      outputs[k] = random.OneIn(8) ? std::nanf("") : random.OneIn(8) ? 0.f : random.Normal();
    }
    Guarded<uint32_t> keys(words * word_stride);
    for (int64_t k = 0; k < keys.size(); ++k) keys[k] = 0xABCD;
    kernels_.pack(outputs.data(), stride, count, bits, keys.data(), word_stride, first);
    ASSERT_TRUE(keys.intact());
    for (int w = 0; w < words; ++w) {
      for (int64_t j = 0; j < word_stride; ++j) {
        uint32_t expected = 0xABCD;
        if (j >= first && j < first + count) {
          expected = 0;
          for (int bit = 32 * w; bit < bits && bit < 32 * w + 32; ++bit) {
            if (outputs[(j - first) * stride + bit] > 0) expected |= 1u << bit % 32;
          }
        }
        ASSERT_EQ(keys[w * word_stride + j], expected);
      }
    }
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
