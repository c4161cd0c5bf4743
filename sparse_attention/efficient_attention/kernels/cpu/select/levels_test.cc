#include "sparse_attention/efficient_attention/kernels/cpu/select/levels.h"

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"

namespace sparse_attention::cpu {
namespace {

class LevelTest : public IsaTest {
 protected:
  LevelStream MakeStream(int64_t max_n) {
    scratch_ = std::make_unique<Guarded>(LevelStream::ScratchBytes(max_n));
    return LevelStream(LevelKernelsFor(GetParam()), max_n, scratch_->get());
  }
  void TearDown() override {
    if (scratch_ != nullptr) {
      EXPECT_TRUE(scratch_->Intact());
    }
  }
  std::unique_ptr<Guarded> scratch_;
};
SA_INSTANTIATE_ISAS(LevelTest);

std::vector<uint8_t> RandomRow(std::mt19937_64& random, int64_t n) {
  std::vector<uint8_t> x(n);
  const uint64_t kind = random() % 6;
  std::binomial_distribution<int> agreeing(32, 0.5), summed(250, 0.5);
  const uint8_t level = static_cast<uint8_t>(random());
  for (uint8_t& value : x) {
    const uint64_t word = random();
    value = static_cast<uint8_t>(kind == 0   ? agreeing(random)
                                 : kind == 1 ? summed(random)
                                 : kind == 2 ? static_cast<int>(word % 256)
                                 : kind == 3 ? level
                                 : kind == 4 ? (word % 10 == 0 ? 255 : 0)
                                             : 252 + static_cast<int>(word % 4));
  }
  if (random() % 8 == 0) std::sort(x.begin(), x.end());
  return x;
}

int64_t RandomK(std::mt19937_64& random, int64_t n) {
  const uint64_t kind = random() % 3;
  return kind == 0 ? static_cast<int64_t>(random() % (n + 3)) : kind == 1 ? n / 10 : n / 50 + 1;
}

TEST_P(LevelTest, RandomRowsEqualTheDefinition) {
  LevelStream stream = MakeStream(50000);
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = static_cast<int64_t>(random() % (seed % 8 == 0 ? 50001 : 1500));
    const std::vector<uint8_t> scores = RandomRow(random, n);
    const std::vector<bool> eligible = RandomBits(random, n, random() % 2 == 0 ? 1 : 0.8);
    std::vector<bool> excluded = eligible;
    excluded.flip();
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    const int64_t k = RandomK(random, n);
    const std::vector<uint64_t> want = ToBitmap(SortedTopK(scores, eligible, k));
    std::vector<uint64_t> got(want.size());
    const bool any = std::count(excluded.begin(), excluded.end(), true) > 0;
    stream.Select(scores.data(), n, k, any ? drop.data() : nullptr, got.data());
    ASSERT_EQ(got, want) << "n " << n << ", k " << k;
  }
}

TEST_P(LevelTest, BlocksGapsAndMisleadingSamplesEqualTheDefinition) {
  LevelStream stream = MakeStream(10000);
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = 1 + static_cast<int64_t>(random() % (seed % 4 == 0 ? 10000 : 700));
    const std::vector<uint8_t> scores = RandomRow(random, n);
    const std::vector<bool> excluded = RandomBits(random, n, 0.1);
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    std::vector<bool> eligible(n);
    std::vector<std::pair<int64_t, int64_t>> blocks;
    const uint64_t longest = 1 + random() % 800;
    for (int64_t j = 0; j < n;) {
      const int64_t end = std::min<int64_t>(n, j + 1 + static_cast<int64_t>(random() % longest));
      if (random() % 5 != 0) {
        blocks.push_back({j, end});
        for (int64_t i = j; i < end; ++i) eligible[i] = !excluded[i];
      }
      j = end;
    }
    const int64_t entries = std::count(eligible.begin(), eligible.end(), true);
    const int64_t k = RandomK(random, n);
    std::vector<uint8_t> sample(seed % 3 == 0 ? 0 : random() % 1200);
    for (uint8_t& x : sample) {
      x = seed % 3 == 1 ? scores[random() % n] : static_cast<uint8_t>(random());
    }
    stream.Begin(k, seed % 7 == 0 ? static_cast<int64_t>(random() % (n + 1)) : entries,
                 sample.data(), static_cast<int64_t>(sample.size()));
    std::vector<uint64_t> got((n + 63) / 64);
    got[0] = eligible[0] ? 0 : 1;  // what is set already stays
    std::vector<uint64_t> want = ToBitmap(SortedTopK(scores, eligible, k));
    want[0] |= got[0];
    int passes = 0;
    do {
      ASSERT_LT(passes, 3);
      ++passes;
      for (const auto& [begin, end] : blocks) {
        // A copy that ends where the block does, at an odd place.
        std::vector<uint8_t> block(scores.begin() + begin - (begin > 0), scores.begin() + end);
        stream.Feed(begin, block.data() + (begin > 0), end - begin, drop.data());
      }
    } while (!stream.Finish(got.data()));
    ASSERT_EQ(got, want) << "n " << n << ", k " << k << ", passes " << passes;
  }
}

TEST_P(LevelTest, NothingFedOrNothingWanted) {
  CountCase(GetParam());
  LevelStream stream = MakeStream(100);
  std::vector<uint64_t> got(2, 0);
  stream.Begin(5, 0, nullptr, 0);
  ASSERT_TRUE(stream.Finish(got.data()));
  stream.Select(nullptr, 0, 5, nullptr, got.data());
  const std::vector<uint8_t> scores(100, 7);
  stream.Select(scores.data(), 100, 0, nullptr, got.data());
  const std::vector<uint64_t> all(2, ~uint64_t{0});
  stream.Select(scores.data(), 100, 5, all.data(), got.data());
  EXPECT_EQ(got, std::vector<uint64_t>(2, 0));
}

// A second pass has to be rare.
TEST_P(LevelTest, OnePassIsEnoughForOrdinaryRows) {
  CountCase(GetParam());
  LevelStream stream = MakeStream(32768);
  int again = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    std::binomial_distribution<int> agreeing(seed % 3 == 0 ? 128 : 32, 0.5);
    std::vector<uint8_t> scores(32768), sample(1024);
    for (uint8_t& x : scores) x = static_cast<uint8_t>(agreeing(random));
    for (uint8_t& x : sample) x = scores[random() % scores.size()];
    stream.Begin(seed % 2 == 0 ? 3276 : 655, 32768, sample.data(), 1024);
    stream.Feed(0, scores.data(), 32768, nullptr);
    std::vector<uint64_t> got(512);
    again += !stream.Finish(got.data());
  }
  EXPECT_LE(again, 3);  // expected less than 0.1
}

}  // namespace
}  // namespace sparse_attention::cpu
