#include "sparse_attention/base/philox.h"

#include <Random123/philox.h>

#include <cmath>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// The known answers that Random123 publishes for philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EqualsRandom123OnManyCounters) {
  r123::Philox4x32 reference;
  uint32_t x = 12345;
  const auto next = [&x] { return x = x * 1664525u + 1013904223u; };
  for (int i = 0; i < 1000; ++i) {
    const PhiloxCounter counter = {next(), next(), next(), next()};
    const PhiloxKey key = {next(), next()};
    const auto expected =
        reference({{counter[0], counter[1], counter[2], counter[3]}}, {{key[0], key[1]}});
    const PhiloxCounter got = Philox4x32(counter, key);
    for (int w = 0; w < 4; ++w) ASSERT_EQ(got[w], expected.v[w]) << "case " << i;
  }
}

TEST(PhiloxStream, WordsAreTheBlocksInOrder) {
  PhiloxStream stream(/*seed=*/7, RandomPurpose::kAdaptiveSample, /*layer=*/3, /*head=*/5,
                      /*position=*/11);
  for (uint32_t block = 0; block < 3; ++block) {
    const PhiloxCounter expected = Philox4x32({2u << 24 | 3u, 5, 11, block}, {7, 0});
    for (int w = 0; w < 4; ++w) EXPECT_EQ(stream.Next(), expected[w]);
  }
}

TEST(PhiloxStream, StreamsOfDifferentPlacesDiffer) {
  std::set<uint32_t> first_words;
  int streams = 0;
  for (RandomPurpose purpose : {RandomPurpose::kRandomSampling, RandomPurpose::kAdaptiveSample}) {
    for (uint32_t layer : {0u, 1u}) {
      for (uint32_t head : {0u, 1u}) {
        for (uint32_t position : {0u, 1u}) {
          first_words.insert(PhiloxStream(42, purpose, layer, head, position).Next());
          ++streams;
        }
      }
    }
  }
  EXPECT_EQ(first_words.size(), streams);
}

TEST(PhiloxStream, BelowIsUniform) {
  // Five equally likely values: each count lies within 6 standard deviations (false alarm below
  // 1e-8).
  constexpr int kDraws = 100000;
  std::vector<int> counts(5);
  PhiloxStream stream(1, RandomPurpose::kTest, 0, 0, 0);
  for (int i = 0; i < kDraws; ++i) ++counts[stream.Below(5)];
  const double sd = std::sqrt(kDraws * 0.2 * 0.8);
  for (int count : counts) EXPECT_NEAR(count, kDraws / 5, 6 * sd);
  EXPECT_EQ(stream.Below(1), 0u);
}

TEST(PhiloxStream, UniformStaysBelowOne) {
  PhiloxStream stream(2, RandomPurpose::kTest, 0, 0, 0);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const double u = stream.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 6 * std::sqrt(1.0 / 12 / 100000));
}

}  // namespace
}  // namespace sparse_attention
