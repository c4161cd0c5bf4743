#include "sparse_attention/key_index/k_means_core.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr int32_t kGuard = -77;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Below(int64_t bound) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(bound));
  }
  double Uniform() { return static_cast<double>(engine_() >> 40) * 0x1p-24; }
  float Normal() { return normal_(engine_); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

double NextUniform(void* random) { return static_cast<Random*>(random)->Uniform(); }

// Rows of any element type at any alignment, and the floats that they mean.
struct Rows {
  Rows(Random& random, int64_t rows, int64_t channels, int64_t width, Element element, bool extra,
       bool odd_values = false) {
    view.element = element;
    view.rows = rows;
    view.channels = channels;
    view.width = width;
    view.row_stride = (channels + random.Below(3)) * ElementBytes(element);
    const int64_t offset = random.Below(5) * ElementBytes(element);
    // Exactly as long as it may be read.
    bytes.resize(static_cast<size_t>(offset + std::max<int64_t>(0, rows - 1) * view.row_stride +
                                     (rows > 0 ? channels * ElementBytes(element) : 0)));
    view.data = bytes.data() + offset;
    extras.resize(static_cast<size_t>(rows));
    if (extra) view.extra = extras.data();
    for (int64_t j = 0; j < rows; ++j) {
      char* const row = bytes.data() + offset + j * view.row_stride;
      for (int64_t i = 0; i < channels; ++i) {
        float value = random.Normal();
        if (odd_values && random.Below(20) == 0) {
          constexpr float kOdd[] = {NAN, kInfinity, -kInfinity, 1e-40f, 0.f, -0.f};
          value = kOdd[random.Below(6)];
        }
        SetElement(row, element, i, value);
        const float stored = ElementAt(row, element, i);
        floats.push_back(std::isfinite(stored) ? stored : 0);
      }
      floats.insert(floats.end(), static_cast<size_t>(width - channels), 0.f);
      extras[static_cast<size_t>(j)] = std::abs(random.Normal());
      if (extra) floats.push_back(extras[static_cast<size_t>(j)]);
    }
  }
  const float* Row(int64_t j) const { return floats.data() + j * view.dim(); }

  VectorRows view;
  std::vector<char> bytes;
  std::vector<float> extras;
  std::vector<float> floats;  // [rows][dim]
};

Element AnyElement(Random& random) { return static_cast<Element>(random.Below(3)); }

float Distance(const float* x, const float* centroid, int64_t dim) {
  float product = 0, norm = 0;
  for (int64_t i = 0; i < dim; ++i) {
    product += x[i] * (-2 * centroid[i]);
    norm += centroid[i] * centroid[i];
  }
  return product + norm;
}

struct Found {
  int32_t code = 0;
  float value = kInfinity;
};
Found NearestOf(const float* x, const std::vector<float>& centroids, int64_t clusters,
                int64_t dim) {
  Found found;
  for (int64_t c = 0; c < clusters; ++c) {
    const float distance = Distance(x, centroids.data() + c * dim, dim);
    if (distance < found.value) found = {static_cast<int32_t>(c), distance};
  }
  return found;
}

std::vector<float> RandomCentroids(Random& random, const Rows& x, int64_t clusters) {
  std::vector<float> centroids;
  for (int64_t c = 0; c < clusters; ++c) {
    const int64_t kind = c == 0 ? 0 : random.Below(4);
    const int64_t other = c == 0 ? 0 : random.Below(c);
    for (int64_t i = 0; i < x.view.dim(); ++i) {
      const float twin = centroids.empty() || c == 0 ? 0 : centroids[other * x.view.dim() + i];
      // Some are the same as others or next to them: ties, and leads that rounding can turn.
      centroids.push_back(kind == 1   ? twin
                          : kind == 2 ? std::nextafter(twin, random.Normal())
                                      : random.Normal());
    }
  }
  return centroids;
}

class KMeansCoreTest : public IsaTest {
 protected:
  KMeansKernels kernels() const { return KMeansKernelsFor(GetParam()); }
};

TEST_P(KMeansCoreTest, NearestIsThatOfPlainLoops) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const int64_t channels = 1 + random.Below(seed % 4 == 0 ? 130 : 40);
    const int64_t width = channels + random.Below(2), count = random.Below(150);
    const Rows x(random, count, channels, width, AnyElement(random), seed % 3 == 0, seed % 5 == 0);
    const int64_t dim = x.view.dim();
    const int64_t clusters = 1 + random.Below(seed % 7 == 0 ? 300 : 64);
    const std::vector<float> centroids = RandomCentroids(random, x, clusters);
    std::vector<float> packed(PackedCentroidFloats(clusters, dim)), block(RowBlockFloats(dim));
    PackCentroids(centroids.data(), clusters, dim, packed.data());
    std::vector<int32_t> codes(count + 1, kGuard);
    std::vector<float> values(count + 1, kGuard), lengths(count);
    std::vector<uint8_t> counted(count);
    for (int64_t j = 0; j < count; ++j) {
      counted[j] = random.Below(4) != 0;
      float square = 0;
      for (int64_t i = 0; i < dim; ++i) square += x.Row(j)[i] * x.Row(j)[i];
      lengths[j] = std::sqrt(square);
    }
    std::vector<double> sums(clusters * dim + 1), expected_sums(clusters * dim + 1);
    std::vector<int64_t> counts(clusters), expected_counts(clusters);
    sums.back() = expected_sums.back() = kGuard;
    const bool fast = seed % 2 == 0;
    NearestParams params;
    params.x = x.view;
    params.packed = packed.data();
    params.clusters = clusters;
    params.codes = codes.data();
    params.block = block.data();
    if (fast) {
      params.lengths = lengths.data();
    } else {
      params.values = values.data();
    }
    params.sums = sums.data();
    params.counts = counts.data();
    params.counted = counted.data();
    EXPECT_EQ(kernels().nearest(params), count);
    for (int64_t j = 0; j < count; ++j) {
      const Found expected = NearestOf(x.Row(j), centroids, clusters, dim);
      ASSERT_EQ(codes[j], expected.code) << "row " << j;
      if (!fast) {
        ASSERT_EQ(values[j], expected.value) << "row " << j;
      }
      if (counted[j] == 0) continue;
      ++expected_counts[expected.code];
      for (int64_t i = 0; i < dim; ++i) expected_sums[expected.code * dim + i] += x.Row(j)[i];
    }
    EXPECT_EQ(sums, expected_sums);
    EXPECT_EQ(counts, expected_counts);
    EXPECT_EQ(codes.back(), kGuard);
    EXPECT_EQ(values.back(), kGuard);
    EXPECT_EQ(kernels().nearest(params), 0) << "changed codes of a second search";
  }
}

TEST_P(KMeansCoreTest, LaterCentroidsReplaceOnlyWhatIsFarther) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const Rows x(random, 90, 1 + random.Below(30), 32, AnyElement(random), false);
    const int64_t dim = 32, clusters = 2 + random.Below(60), first = 1 + random.Below(clusters - 1);
    const std::vector<float> centroids = RandomCentroids(random, x, clusters);
    std::vector<float> packed(PackedCentroidFloats(clusters, dim)), block(RowBlockFloats(dim));
    std::vector<int32_t> codes(90);
    std::vector<float> values(90);
    NearestParams params;
    params.x = x.view;
    params.packed = packed.data();
    params.codes = codes.data();
    params.values = values.data();
    params.block = block.data();
    PackCentroids(centroids.data(), first, dim, packed.data());
    params.clusters = first;
    kernels().nearest(params);
    PackCentroids(centroids.data() + first * dim, clusters - first, dim, packed.data());
    params.clusters = clusters - first;
    params.keep_nearer = true;
    params.first_code = static_cast<int32_t>(first);
    kernels().nearest(params);
    for (int64_t j = 0; j < 90; ++j) {
      const Found expected = NearestOf(x.Row(j), centroids, clusters, dim);
      ASSERT_EQ(codes[j], expected.code);
      ASSERT_EQ(values[j], expected.value);
    }
  }
}

TEST_P(KMeansCoreTest, NormsAndFiniteRows) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const int64_t channels = 1 + random.Below(140), count = random.Below(140);
    const Rows x(random, count, channels, channels, AnyElement(random), seed % 2 == 0, true);
    std::vector<float> block(RowBlockFloats(x.view.dim())), norms(count + 1, kGuard);
    std::vector<uint8_t> finite(count + 1, 77);
    kernels().norms(x.view, block.data(), norms.data());
    kernels().finite(x.view, finite.data());
    for (int64_t j = 0; j < count; ++j) {
      float square = 0;
      for (int64_t i = 0; i < x.view.dim(); ++i) square += x.Row(j)[i] * x.Row(j)[i];
      ASSERT_EQ(norms[j], square);
      const char* const row = static_cast<const char*>(x.view.data) + j * x.view.row_stride;
      bool all = true;
      for (int64_t i = 0; i < channels; ++i) {
        all = all && std::isfinite(ElementAt(row, x.view.element, i));
      }
      ASSERT_EQ(finite[j], all ? 1 : 0);
    }
    EXPECT_EQ(norms.back(), kGuard);
    EXPECT_EQ(finite.back(), 77);
  }
}

struct Clustering {
  std::vector<float> centroids;
  std::vector<int32_t> codes;
};

Clustering Cluster(const VectorRows& x, int64_t clusters, int64_t iterations, uint64_t seed,
                   Isa isa, const uint8_t* counted = nullptr) {
  Clustering result{std::vector<float>(clusters * x.dim() + 1, kGuard),
                    std::vector<int32_t>(x.rows + 1, kGuard)};
  // Doubles behind the scratch, which no one may touch.
  const int64_t words = KMeansScratchBytes(x.rows, x.dim(), clusters) / 8;
  std::vector<double> scratch(words + 8, 5);
  Random random(seed);
  KMeansProblem problem;
  problem.x = x;
  problem.counted = counted;
  problem.clusters = clusters;
  problem.iterations = iterations;
  problem.uniform = NextUniform;
  problem.stream = &random;
  problem.centroids = result.centroids.data();
  problem.codes = result.codes.data();
  KMeansOfGroup(problem, isa, scratch.data());
  for (int64_t i = words; i < words + 8; ++i) EXPECT_EQ(scratch[i], 5);
  EXPECT_EQ(result.centroids.back(), kGuard);
  EXPECT_EQ(result.codes.back(), kGuard);
  result.centroids.pop_back();
  result.codes.pop_back();
  return result;
}

double Inertia(const Rows& x, const Clustering& result) {
  const int64_t dim = x.view.dim();
  double sum = 0;
  for (int64_t j = 0; j < x.view.rows; ++j) {
    for (int64_t i = 0; i < dim; ++i) {
      const double d = double{x.Row(j)[i]} - result.centroids[result.codes[j] * dim + i];
      sum += d * d;
    }
  }
  return sum;
}

// The textbook's algorithm in float64.
Clustering Textbook(const Rows& x, int64_t clusters, int64_t iterations, uint64_t seed) {
  Random random(seed);
  const int64_t n = x.view.rows, dim = x.view.dim();
  std::vector<double> centres, nearest(n, 1);
  const auto distance = [&](int64_t j, int64_t c) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) {
      sum += std::pow(double{x.Row(j)[i]} - centres[c * dim + i], 2);
    }
    return sum;
  };
  for (int64_t c = 0; c < clusters; ++c) {
    double total = 0;
    for (double d : nearest) total += d;
    double target = total * random.Uniform();
    int64_t row = 0;
    while (row + 1 < n && (target -= nearest[row]) >= 0) ++row;
    for (int64_t i = 0; i < dim; ++i) centres.push_back(double{x.Row(row)[i]});
    for (int64_t j = 0; j < n; ++j) {
      nearest[j] = c == 0 ? distance(j, c) : std::min(nearest[j], distance(j, c));
    }
  }
  Clustering result;
  result.codes.resize(n);
  for (int64_t iteration = 0; iteration <= iterations; ++iteration) {
    std::vector<double> sums(clusters * dim);
    std::vector<int64_t> counts(clusters);
    for (int64_t j = 0; j < n; ++j) {
      int32_t best = 0;
      for (int32_t c = 1; c < clusters; ++c) best = distance(j, c) < distance(j, best) ? c : best;
      result.codes[j] = best;
      ++counts[best];
      for (int64_t i = 0; i < dim; ++i) sums[best * dim + i] += x.Row(j)[i];
    }
    if (iteration == iterations) break;
    for (int64_t i = 0; i < clusters * dim; ++i) {
      if (counts[i / dim] > 0) centres[i] = sums[i] / static_cast<double>(counts[i / dim]);
    }
  }
  result.centroids.assign(centres.begin(), centres.end());
  return result;
}

TEST_P(KMeansCoreTest, IsAsGoodAsTheTextbook) {
  Random random(1);
  const Rows x(random, 600, 8, 8, Element::kFloat32, false);
  double ours = 0, textbook = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    CountCase(GetParam());
    ours += Inertia(x, Cluster(x.view, 16, 8, seed, GetParam()));
    textbook += Inertia(x, Textbook(x, 16, 8, seed + 1000));
  }
  EXPECT_LT(ours, 1.01 * textbook);
}

TEST_P(KMeansCoreTest, CodesAreThoseOfTheFinalCentroidsWhichAreMeans) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const int64_t clusters = 1 + random.Below(90);
    const Rows x(random, 90 + random.Below(300), 5, 5, AnyElement(random), seed % 2 == 0);
    const int64_t dim = x.view.dim();
    const Clustering result = Cluster(x.view, clusters, 1000, seed, GetParam());
    std::vector<double> sums(clusters * dim);
    std::vector<double> counts(clusters);
    for (int64_t j = 0; j < x.view.rows; ++j) {
      const int32_t code = NearestOf(x.Row(j), result.centroids, clusters, dim).code;
      ASSERT_EQ(result.codes[j], code);
      ++counts[code];
      for (int64_t i = 0; i < dim; ++i) sums[code * dim + i] += x.Row(j)[i];
    }
    for (int64_t i = 0; i < clusters * dim; ++i) {
      if (counts[i / dim] > 0) {
        ASSERT_EQ(result.centroids[i], static_cast<float>(sums[i] / counts[i / dim]));
      }
    }
  }
}

// Few and many clusters: with and without the fast search.
TEST_P(KMeansCoreTest, IsTheSameOnEveryInstructionSet) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const Rows x(random, 400 + random.Below(300), 1 + random.Below(70), 70, AnyElement(random),
                 seed % 2 == 0, seed % 3 == 0);
    std::vector<uint8_t> counted(x.view.rows);
    for (uint8_t& mark : counted) mark = random.Below(5) != 0;
    const int64_t clusters = seed % 4 == 0 ? 100 : 40;
    const Clustering here = Cluster(x.view, clusters, 5, seed, GetParam(), counted.data());
    const Clustering plain = Cluster(x.view, clusters, 5, seed, Isa::kGeneric, counted.data());
    EXPECT_EQ(here.codes, plain.codes);
    EXPECT_EQ(here.centroids, plain.centroids);
  }
}

// Chances of every triple of first centres against the definition.
TEST_P(KMeansCoreTest, StartsAreDrawnBySquaredDistances) {
  const std::array<float, 5> points = {0, 2, 5, 6, 10};
  VectorRows x;
  x.data = points.data();
  x.row_stride = 4;
  x.rows = 5;
  x.channels = x.width = 1;
  std::map<std::array<int, 3>, int> seen;
  constexpr int kRuns = 40000;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    const Clustering start = Cluster(x, 3, 0, seed, GetParam());
    std::array<int, 3> drawn;
    for (int c = 0; c < 3; ++c) {
      drawn[c] = static_cast<int>(std::find(points.begin(), points.end(), start.centroids[c]) -
                                  points.begin());
    }
    ++seen[drawn];
  }
  CountCase(GetParam());
  double chi_square = 0;
  const auto square = [&](int i, int j) { return std::pow(double{points[i]} - points[j], 2); };
  for (int a = 0; a < 5; ++a) {
    double of_second = 0;
    for (int i = 0; i < 5; ++i) of_second += square(a, i);
    for (int b = 0; b < 5; ++b) {
      double of_third = 0;
      for (int i = 0; i < 5; ++i) of_third += std::min(square(a, i), square(b, i));
      for (int c = 0; c < 5; ++c) {
        const double chance =
            0.2 * square(a, b) / of_second * std::min(square(a, c), square(b, c)) / of_third;
        const int count = seen[{a, b, c}];
        if (chance == 0) {
          EXPECT_EQ(count, 0);
        } else {
          chi_square += std::pow(count - kRuns * chance, 2) / (kRuns * chance);
        }
      }
    }
  }
  EXPECT_LT(chi_square, 104);  // 59 degrees of freedom: exceeded by chance in 3 of 10,000 runs
}

// Tight clouds far apart: most draws by old distances are refused.
TEST_P(KMeansCoreTest, FindsSeparateClouds) {
  Random random(3);
  std::vector<float> x;
  for (int j = 0; j < 1000; ++j) {
    for (int i = 0; i < 4; ++i) {
      x.push_back(static_cast<float>((j % 20) >> i & 1 ? 100 : -100) * (j % 20 >= 16 ? 3 : 1) +
                  0.01f * random.Normal());
    }
  }
  VectorRows rows;
  rows.data = x.data();
  rows.row_stride = 16;
  rows.rows = 1000;
  rows.channels = rows.width = 4;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    CountCase(GetParam());
    const Clustering result = Cluster(rows, 20, 3, seed, GetParam());
    std::map<int32_t, int> clouds;
    for (int j = 0; j < 1000; ++j) {
      const auto [entry, fresh] = clouds.emplace(result.codes[j], j % 20);
      ASSERT_EQ(entry->second, j % 20) << "row " << j;
    }
    EXPECT_EQ(clouds.size(), 20u);
  }
}

TEST_P(KMeansCoreTest, RowsThatDoNotCountAreNoCentroids) {
  Random random(4);
  std::vector<float> x;
  std::vector<uint8_t> counted;
  for (int j = 0; j < 60; ++j) {
    counted.push_back(j % 3 != 0);
    x.push_back(counted.back() ? random.Normal() : (j % 2 ? NAN : 1e30f));
  }
  VectorRows rows;
  rows.data = x.data();
  rows.row_stride = 4;
  rows.rows = 60;
  rows.channels = rows.width = 1;
  for (int64_t clusters : {1, 5, 64}) {
    CountCase(GetParam());
    const Clustering result = Cluster(rows, clusters, 5, 1, GetParam(), counted.data());
    for (float c : result.centroids) EXPECT_LT(std::abs(c), 10);
  }
  // None counts, or nothing is finite: no promise but to end with codes in range.
  std::fill(counted.begin(), counted.end(), 0);
  std::fill(x.begin() + 30, x.end(), 3e38f);
  for (const uint8_t* marks : std::array<const uint8_t*, 2>{counted.data(), nullptr}) {
    CountCase(GetParam());
    for (int32_t code : Cluster(rows, 5, 5, 1, GetParam(), marks).codes) {
      EXPECT_GE(code, 0);
      EXPECT_LT(code, 5);
    }
  }
}

SA_INSTANTIATE_ISAS(KMeansCoreTest);

}  // namespace
}  // namespace sparse_attention::cpu
