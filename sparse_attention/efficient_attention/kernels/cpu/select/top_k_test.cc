#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TopKTest : public IsaTest {
 protected:
  TopKStream MakeStream(int64_t max_n) {
    scratch_ = std::make_unique<Guarded>(TopKStream::ScratchBytes(max_n));
    return TopKStream(TopKKernelsFor(GetParam()), max_n, scratch_->get());
  }
  void TearDown() override {
    if (scratch_ != nullptr) {
      EXPECT_TRUE(scratch_->Intact());
    }
  }

  // The row in memory, by Select, against the definition.
  template <typename T>
  void ExpectSelects(TopKStream& stream, const std::vector<T>& scores,
                     const std::vector<bool>& excluded, int64_t k, const std::string& what) {
    CountCase(GetParam());
    std::vector<bool> eligible(scores.size());
    for (size_t j = 0; j < scores.size(); ++j) eligible[j] = !excluded[j];
    const std::vector<uint64_t> want = ToBitmap(SortedTopK(scores, eligible, k));
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    std::vector<uint64_t> got(want.size() + 1);
    const uint64_t* const held =
        std::count(excluded.begin(), excluded.end(), true) == 0 ? nullptr : drop.data();
    stream.Select(scores.data(), static_cast<int64_t>(scores.size()), k, held, got.data());
    EXPECT_EQ(got.back(), 0u) << what;
    got.pop_back();
    EXPECT_EQ(got, want) << what << ", n " << scores.size() << ", k " << k;
  }
  void ExpectSelects(TopKStream& stream, const std::vector<float>& scores, int64_t k,
                     const std::string& what) {
    ExpectSelects(stream, scores, std::vector<bool>(scores.size()), k, what);
  }

  std::unique_ptr<Guarded> scratch_;
};
SA_INSTANTIATE_ISAS(TopKTest);

// Rows of many kinds. The name is printed where a test fails.
std::vector<float> RandomRow(std::mt19937_64& random, int64_t n, std::string* name) {
  std::vector<float> x(n);
  std::normal_distribution<float> normal;
  const int kind = static_cast<int>(random() % 10);
  static const char* const kNames[] = {"normal",   "few values", "sorted", "reversed",   "powers",
                                       "far mean", "any bits",   "equal",  "two values", "special"};
  *name = kNames[kind];
  const float level = normal(random);
  for (int64_t j = 0; j < n; ++j) {
    const float z = normal(random);
    const uint64_t word = random();
    switch (kind) {
      case 1:
        x[j] = static_cast<float>(word % 7) - 3;
        break;
      case 4:
        x[j] = std::exp(20 * z) * (word % 2 == 0 ? 1.f : -1.f);
        break;
      case 5:
        x[j] = 1000 + 0.01f * z;
        break;
      case 6: {
        const uint32_t bits = static_cast<uint32_t>(word);
        std::memcpy(&x[j], &bits, sizeof(float));
        break;
      }
      case 7:
        x[j] = level;
        break;
      case 8:
        x[j] = word % 10 == 0 ? 1.f : 0.f;
        break;
      case 9: {
        constexpr float kSpecial[] = {NAN,
                                      kInfinity,
                                      -kInfinity,
                                      0.f,
                                      -0.f,
                                      1e-45f,
                                      -1e-45f,
                                      std::numeric_limits<float>::max(),
                                      std::numeric_limits<float>::lowest()};
        x[j] = word % 3 == 0 ? z : kSpecial[(word >> 8) % std::size(kSpecial)];
        break;
      }
      default:
        x[j] = z;
    }
  }
  if (kind == 2) std::sort(x.begin(), x.end());
  if (kind == 3) std::sort(x.begin(), x.end(), std::greater<>());
  return x;
}

int64_t RandomLength(std::mt19937_64& random, int64_t most) {
  // Short lengths as often as long ones.
  return static_cast<int64_t>(
      std::exp(std::uniform_real_distribution<>(0, std::log(static_cast<double>(most)))(random)));
}

int64_t RandomK(std::mt19937_64& random, int64_t n) {
  switch (random() % 4) {
    case 0:
      return static_cast<int64_t>(random() % static_cast<uint64_t>(n + 3));
    case 1:
      return n / 10;
    case 2:
      return n / 50 + 1;
    default:
      return RandomLength(random, n + 1);
  }
}

TEST_P(TopKTest, RandomRowsEqualTheDefinition) {
  TopKStream stream = MakeStream(70000);
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const int64_t n = RandomLength(random, seed % 4 == 0 ? 70000 : 3000);
    std::string name;
    const std::vector<float> scores = RandomRow(random, n, &name);
    const double share = random() % 2 == 0 ? 0 : std::uniform_real_distribution<>()(random);
    ExpectSelects(stream, scores, RandomBits(random, n, share), RandomK(random, n), name);
    if (HasFailure()) return;
  }
}

TEST_P(TopKTest, RandomShortIntegersEqualTheDefinition) {
  TopKStream stream = MakeStream(70000);
  for (uint64_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const int64_t n = RandomLength(random, seed % 4 == 0 ? 70000 : 3000);
    std::vector<uint16_t> scores(n);
    const uint32_t levels = seed % 3 == 0 ? 65536 : seed % 3 == 1 ? 600 : 30;
    for (uint16_t& x : scores) x = static_cast<uint16_t>(65535 - random() % levels);
    const double share = random() % 2 == 0 ? 0 : std::uniform_real_distribution<>()(random);
    ExpectSelects(stream, scores, RandomBits(random, n, share), RandomK(random, n), "u16");
    if (HasFailure()) return;
  }
}

// Blocks of any size that begin anywhere, gaps between them, rows fed side by side, samples that
// tell nothing or lie.
TEST_P(TopKTest, BlocksGapsAndMisleadingSamplesEqualTheDefinition) {
  TopKStream stream = MakeStream(20000);
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = RandomLength(random, 20000);
    std::string name;
    const std::vector<float> scores = RandomRow(random, n, &name);
    SCOPED_TRACE(name);
    const std::vector<bool> excluded = RandomBits(random, n, 0.1);
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    std::vector<bool> eligible(n);
    std::vector<std::pair<int64_t, int64_t>> blocks;
    const int64_t longest = 1 + RandomLength(random, 3000);
    for (int64_t j = 0; j < n;) {
      const int64_t end = std::min<int64_t>(n, j + 1 + random() % longest);
      if (random() % 5 != 0) {
        blocks.push_back({j, end});
        for (int64_t i = j; i < end; ++i) eligible[i] = !excluded[i];
      }
      j = end;
    }
    const int64_t entries = std::count(eligible.begin(), eligible.end(), true);
    const int64_t k = RandomK(random, n);
    std::vector<float> sample(seed % 3 == 0 ? 0 : random() % 1200);
    for (float& x : sample) {
      x = seed % 3 == 1 ? scores[random() % n] : std::normal_distribution<float>(3, 9)(random);
    }
    // An estimate of the entries, good or bad.
    stream.Begin(k, seed % 7 == 0 ? static_cast<int64_t>(random() % (n + 1)) : entries,
                 sample.data(), static_cast<int64_t>(sample.size()));
    std::vector<uint64_t> got((n + 63) / 64);
    got[0] = eligible[0] ? 0 : 1;  // what is set already stays
    std::vector<uint64_t> want = ToBitmap(SortedTopK(scores, eligible, k));
    want[0] |= got[0];
    int passes = 0;
    do {
      ASSERT_LT(passes, 7);
      ++passes;
      for (const auto& [begin, end] : blocks) {
        // A copy that ends where the block does, at an odd place.
        std::vector<float> block(scores.begin() + begin - (begin > 0), scores.begin() + end);
        stream.Feed(begin, block.data() + (begin > 0), end - begin, drop.data());
      }
    } while (!stream.Finish(got.data()));
    ASSERT_EQ(got, want) << "n " << n << ", k " << k << ", passes " << passes;
  }
}

TEST_P(TopKTest, SpecialValuesOrderAsDefined) {
  TopKStream stream = MakeStream(64);
  const float lowest = std::numeric_limits<float>::lowest();
  const std::vector<float> scores = {-kInfinity, lowest, -0.f, 0.f, NAN, kInfinity, -1.f, 1e-45f};
  for (int64_t k = 0; k <= 9; ++k) ExpectSelects(stream, scores, k, "special");
  std::vector<uint64_t> got(1);
  stream.Select(scores.data(), 8, 2, nullptr, got.data());
  EXPECT_EQ(got[0], 0b00110000u);  // NaN and infinity
  got[0] = 0;
  stream.Select(scores.data(), 8, 4, nullptr, got.data());
  EXPECT_EQ(got[0], 0b10110100u);  // then the smallest positive number, and -0 before 0
  got[0] = 0;
  stream.Select(scores.data(), 8, 7, nullptr, got.data());
  EXPECT_EQ(got[0], 0b11111101u);  // -infinity before the lowest number
}

TEST_P(TopKTest, RowsThatOverflowTheBracketAreExact) {
  TopKStream stream = MakeStream(40000);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  // Nearly all scores share their upper 20 bits, beside some far ones.
  std::vector<float> scores(40000);
  for (int64_t j = 0; j < 40000; ++j) {
    const uint32_t bits = 0x3F800000u + static_cast<uint32_t>(random() % 4096);
    std::memcpy(&scores[j], &bits, 4);
    if (j % 50 == 0) scores[j] = 100 * normal(random);
  }
  for (int64_t k : {1, 400, 4000, 20000, 39999}) ExpectSelects(stream, scores, k, "narrow");
  // Half of the row is one value.
  for (int64_t j = 0; j < 40000; j += 2) scores[j] = 1.0001f;
  for (int64_t k : {1, 400, 4000, 20000, 39999}) ExpectSelects(stream, scores, k, "ties");
}

TEST_P(TopKTest, NothingFedOrNothingWanted) {
  CountCase(GetParam());
  TopKStream stream = MakeStream(100);
  std::vector<uint64_t> got(2, 0);
  stream.Begin(5, 0, nullptr, 0);
  ASSERT_TRUE(stream.Finish(got.data()));
  stream.Begin(5, 50, nullptr, 0);
  ASSERT_TRUE(stream.Finish(got.data()));
  stream.Select(static_cast<const float*>(nullptr), 0, 5, nullptr, got.data());
  const std::vector<float> scores(100, 1.f);
  stream.Select(scores.data(), 100, 0, nullptr, got.data());
  stream.Select(scores.data(), 100, -1, nullptr, got.data());
  const std::vector<uint64_t> all(2, ~uint64_t{0});
  stream.Select(scores.data(), 100, 5, all.data(), got.data());
  EXPECT_EQ(got, std::vector<uint64_t>(2, 0));
}

// A bracket that misses costs a second pass: it has to be rare.
TEST_P(TopKTest, OnePassIsEnoughForOrdinaryRows) {
  CountCase(GetParam());
  TopKStream stream = MakeStream(32768);
  std::normal_distribution<float> normal;
  int again = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<float> scores(32768), sample(1024);
    for (float& x : scores) x = normal(random);
    for (float& x : sample) x = scores[random() % scores.size()];
    stream.Begin(seed % 2 == 0 ? 3276 : 655, 32768, sample.data(), 1024);
    stream.Feed(0, scores.data(), 32768, nullptr);
    std::vector<uint64_t> got(512);
    again += !stream.Finish(got.data());
  }
  EXPECT_LE(again, 3);  // expected 0.1
}

}  // namespace
}  // namespace sparse_attention::cpu
