#include "sparse_attention/efficient_attention/kernels/cpu/sample/without_replacement.h"

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"
#include "sparse_attention/research_attention/maskers/sampling/row_sampler.h"

namespace sparse_attention::cpu {
namespace {

class SampleTest : public IsaTest {
 protected:
  const SampleKernels kernels_ = SampleKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(SampleTest);

struct Stream {
  uint64_t seed;
  uint32_t layer, head, position;

  explicit Stream(std::mt19937_64& random)
      : seed(random()),
        layer(static_cast<uint32_t>(random() >> 40)),
        head(static_cast<uint32_t>(random())),
        position(static_cast<uint32_t>(random())) {}
  PhiloxStream Slow() const {
    return PhiloxStream(seed, RandomPurpose::kTest, layer, head, position);
  }
  PhiloxStart Start() const {
    return PhiloxStartOf(seed, static_cast<uint32_t>(RandomPurpose::kTest), layer, head, position);
  }
};

TEST_P(SampleTest, WordsAreThoseOfPhilox) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const Stream stream(random);
    const int64_t count = static_cast<int64_t>(random() % 500);
    Guarded out(count * 4);
    uint32_t* const words = reinterpret_cast<uint32_t*>(out.get());
    kernels_.words(stream.Start(), count, words);
    PhiloxStream slow = stream.Slow();
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(words[i], slow.Next()) << i;
    ASSERT_TRUE(out.Intact());
  }
}

// The set of the research engine, at every share, with keys in between that are not eligible.
TEST_P(SampleTest, KeysAreThoseOfTheResearchEngine) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const Stream stream(random);
    const int64_t n = static_cast<int64_t>(random() % (seed % 8 == 0 ? 60000 : 2000));
    constexpr double kShares[] = {1, 0.98, 0.5, 0.05};
    const std::vector<bool> eligible = RandomBits(random, n, kShares[random() % 4]);
    const std::vector<uint64_t> places = ToBitmap(eligible);
    const std::vector<bool> held = RandomBits(random, n, 0.01);
    const int64_t population = std::count(eligible.begin(), eligible.end(), true);
    int64_t count = static_cast<int64_t>(random() % static_cast<uint64_t>(population + 1));
    if (seed % 3 == 0) count /= 50;
    if (seed % 17 == 0) count = seed % 2 == 0 ? population : population / 2;

    PhiloxStream slow = stream.Slow();
    const std::vector<int64_t> ranks = SampleWithoutReplacement(slow, population, count);
    std::vector<bool> want = held;
    size_t at = 0;
    int64_t rank = 0;
    for (int64_t j = 0; j < n; ++j) {
      if (!eligible[j]) continue;
      if (at < ranks.size() && ranks[at] == rank) {
        want[j] = true;
        ++at;
      }
      ++rank;
    }
    std::vector<uint64_t> got = ToBitmap(held);
    std::vector<uint64_t> scratch(SampleScratchWords(population));
    kernels_.sample_keys(stream.Start(), population, count, places.data(), BitmapWords(n),
                         scratch.data(), got.data());
    ASSERT_EQ(got, ToBitmap(want)) << "population " << population << ", count " << count;
  }
}

// A population of which Below skips the most words: 1 in 256.
TEST_P(SampleTest, SkipsTheWordsThatBelowSkips) {
  CountCase(GetParam());
  constexpr int64_t kPopulation = (int64_t{1} << 24) + 1, kCount = 20000;
  std::vector<uint64_t> ranks(SampleScratchWords(kPopulation));
  std::mt19937_64 random(3);
  const Stream stream(random);
  kernels_.sample_ranks(stream.Start(), kPopulation, kCount, ranks.data());
  PhiloxStream slow = stream.Slow();
  const std::vector<int64_t> want = SampleWithoutReplacement(slow, kPopulation, kCount);
  std::vector<uint32_t> got(kCount);
  ASSERT_EQ(BitmapKernelsFor(GetParam())
                .to_list(ranks.data(), BitmapWords(kPopulation), 0, got.data(), kCount),
            kCount);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin()));
}

}  // namespace
}  // namespace sparse_attention::cpu
