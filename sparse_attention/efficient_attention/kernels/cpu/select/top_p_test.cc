#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TopPTest : public IsaTest {
 protected:
  const TopPKernels kernels_ = TopPKernelsFor(GetParam());

  float Threshold(const std::vector<float>& masses, double share, TopPRule rule) {
    const int64_t n = static_cast<int64_t>(masses.size());
    Guarded scratch(TopPScratchFloats(n) * 4);
    const float threshold =
        kernels_.threshold(masses.data(), n, share, rule, reinterpret_cast<float*>(scratch.get()));
    EXPECT_TRUE(scratch.Intact());
    return threshold;
  }
};
SA_INSTANTIATE_ISAS(TopPTest);

// The sorted definition; `margin` is how near the share a running share comes.
float SortedThreshold(std::vector<float> masses, double share, TopPRule rule, double* margin) {
  std::sort(masses.begin(), masses.end(), std::greater<>());
  double total = 0, sum = 0;
  for (float mass : masses) total += static_cast<double>(mass);
  *margin = 1;
  float threshold = masses.back();
  bool found = false;
  for (float mass : masses) {
    sum += static_cast<double>(mass);
    *margin = std::min(*margin, std::abs(sum / total - share));
    if (!found && (rule == TopPRule::kGreater ? sum / total > share : sum / total >= share)) {
      threshold = mass;
      found = true;
    }
  }
  return threshold;
}

std::vector<float> RandomMasses(std::mt19937_64& random, int64_t n) {
  std::vector<float> x(n);
  const uint64_t kind = random() % 6;
  std::normal_distribution<float> normal;
  for (float& mass : x) {
    const float z = normal(random);
    const float spread = kind == 0 ? 1.f : kind == 1 ? 5.f : 0.01f;
    mass = kind < 3    ? std::exp(spread * z)
           : kind == 3 ? static_cast<float>(random() % 4)
           : kind == 4 ? (random() % 200 == 0 ? 1e6f : 1e-3f * std::abs(z))
                       : 1.f;
    if (random() % 50 == 0) mass = 0;
  }
  if (random() % 6 == 0) std::sort(x.begin(), x.end());
  return x;
}

TEST_P(TopPTest, ThresholdsAreThoseOfSorting) {
  int compared = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = 1 + static_cast<int64_t>(random() % (seed % 4 == 0 ? 40000 : 600));
    const std::vector<float> masses = RandomMasses(random, n);
    const double share = random() % 4 == 0 ? 0.9 : std::uniform_real_distribution<>()(random);
    const TopPRule rule = random() % 2 == 0 ? TopPRule::kGreater : TopPRule::kAtLeast;
    double margin = 0;
    const float want = SortedThreshold(masses, share, rule, &margin);
    if (margin <= 2 * static_cast<double>(n) * 0x1p-53) continue;
    ++compared;
    ASSERT_EQ(Threshold(masses, share, rule), want) << "n " << n << ", share " << share;
  }
  EXPECT_GT(compared, 380);
}

// Whole numbers have exact sums: here the two rules part, and the ends of the range count.
TEST_P(TopPTest, RulesPartWhereASumMeetsTheShare) {
  CountCase(GetParam());
  const std::vector<float> masses = {1, 4, 1, 2, 0};  // shares 1/2, 3/4, 7/8, 1, 1
  EXPECT_EQ(Threshold(masses, 0.5, TopPRule::kGreater), 2);
  EXPECT_EQ(Threshold(masses, 0.5, TopPRule::kAtLeast), 4);
  EXPECT_EQ(Threshold(masses, 0.75, TopPRule::kGreater), 1);
  EXPECT_EQ(Threshold(masses, 0.75, TopPRule::kAtLeast), 2);
  EXPECT_EQ(Threshold(masses, 0, TopPRule::kGreater), 4);
  EXPECT_EQ(Threshold(masses, 0, TopPRule::kAtLeast), 4);
  EXPECT_EQ(Threshold(masses, 1, TopPRule::kGreater), 0);
  EXPECT_EQ(Threshold(masses, 1, TopPRule::kAtLeast), 1);
  EXPECT_EQ(Threshold({0, 0, 0}, 0.5, TopPRule::kGreater), 0);
  EXPECT_EQ(Threshold({3}, 1, TopPRule::kGreater), 3);
}

// More equal masses than the scratch holds, beside a sample that tells little.
TEST_P(TopPTest, RowsThatOverflowTheBracketAreExact) {
  CountCase(GetParam());
  std::vector<float> masses(30000, 1.f);
  EXPECT_EQ(Threshold(masses, 0.3, TopPRule::kGreater), 1);
  for (size_t j = 0; j < masses.size(); ++j) masses[j] += static_cast<float>(j % 3) * 0x1p-23f;
  double margin = 0;
  for (double share : {0.1, 0.4, 0.9}) {
    EXPECT_EQ(Threshold(masses, share, TopPRule::kGreater),
              SortedThreshold(masses, share, TopPRule::kGreater, &margin));
  }
  masses[12345] = 1e9f;  // one key has nearly all
  EXPECT_EQ(Threshold(masses, 0.5, TopPRule::kGreater), 1e9f);
}

// Masses that lie higher, or lower, where the kernel takes its sample than anywhere else.
TEST_P(TopPTest, MisleadingSamplesAreOvercome) {
  constexpr int64_t kRow = 40000, kSample = 2048;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> unit;
    std::vector<float> masses(kRow);
    for (float& mass : masses) mass = 1 + unit(random);
    for (uint64_t i = 0; i < kSample; ++i) {
      const uint64_t stretch = (uint64_t{kRow} << 16) / kSample;
      const uint64_t hash = static_cast<uint32_t>(i + 1) * 0x9E3779B1u;
      const uint64_t place = (i * stretch + (stretch * (hash >> 16) >> 16)) >> 16;
      masses[place] = (seed % 2 == 0 ? 10.f : 0.1f) * (1 + unit(random));
    }
    const double share = std::uniform_real_distribution<>(0.05, 0.95)(random);
    double margin = 0;
    const float want = SortedThreshold(masses, share, TopPRule::kGreater, &margin);
    ASSERT_EQ(Threshold(masses, share, TopPRule::kGreater), want) << "share " << share;
  }
}

TEST_P(TopPTest, MassesAreExponentials) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = static_cast<int64_t>(random() % 300);
    std::normal_distribution<float> normal(0, 10);
    std::vector<float> logits(n);
    for (float& x : logits) x = random() % 10 == 0 ? -kInfinity : normal(random);
    if (n > 0 && seed % 5 == 0) logits[random() % n] = seed % 2 == 0 ? kInfinity : NAN;
    const std::vector<bool> excluded = RandomBits(random, n, seed % 3 == 0 ? 0 : 0.3);
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    float top = -kInfinity;
    for (int64_t j = 0; j < n; ++j) {
      if (!excluded[j]) top = std::max(top, std::isnan(logits[j]) ? kInfinity : logits[j]);
    }
    ASSERT_EQ(kernels_.highest(logits.data(), n, drop.data()), top);
    Guarded out(n * 4);
    float* const masses = reinterpret_cast<float*>(out.get());
    const double sum = kernels_.masses(logits.data(), n, drop.data(), top, masses);
    double want_sum = 0;
    for (int64_t j = 0; j < n; ++j) {
      double want = 0;
      if (!excluded[j] && top == kInfinity) {
        want = logits[j] < kInfinity ? 0 : 1;
      } else if (!excluded[j] && top > -kInfinity) {
        want = std::exp(static_cast<double>(logits[j]) - static_cast<double>(top));
      }
      // The rounding of the difference, that of the exponential, and what it takes for 0.
      ASSERT_NEAR(masses[j], want, want * (100 * 0x1p-24 + 4 * 0x1p-24) + 1.3e-38) << j;
      want_sum += static_cast<double>(masses[j]);
    }
    ASSERT_NEAR(sum, want_sum, 1e-12 * want_sum);
    ASSERT_TRUE(out.Intact());

    std::vector<uint64_t> got(drop.size()), want(drop.size());
    const float threshold = n == 0 ? 0 : masses[random() % n];
    kernels_.select_reaching(masses, n, threshold, drop.data(), got.data());
    for (int64_t j = 0; j < n; ++j) {
      want[j / 64] |= uint64_t{!excluded[j] && masses[j] >= threshold} << (j % 64);
    }
    ASSERT_EQ(got, want);
  }
}

TEST(MissingShareTest, CountsWhatIsHeld) {
  EXPECT_DOUBLE_EQ(MissingShare(0.9, 1, 0), 0.9);
  EXPECT_DOUBLE_EQ(MissingShare(0.75, 1, 1), 0.5);
  EXPECT_LE(MissingShare(0.5, 1, 3), 0);
  EXPECT_EQ(MissingShare(0.5, 0, 3), 0);
}

}  // namespace
}  // namespace sparse_attention::cpu
