#include "sparse_attention/key_index/mips_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of 1

class MipsCoreTest : public IsaTest {};
SA_INSTANTIATE_ISAS(MipsCoreTest);

// Keys of a type, in one piece and in pages, and as they were rounded.
struct Keys {
  Keys(uint64_t seed, Element type, int64_t keys, int64_t dim)
      : count(keys), values(static_cast<size_t>(keys * dim)) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0.5f, 2);
    const int64_t row_bytes = dim * ElementBytes(type);
    data.resize(static_cast<size_t>(keys * row_bytes));
    whole = {{data.data(), row_bytes, nullptr, 0, 0}, type, dim};
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t i = 0; i < dim; ++i) Set(j, i, normal(random));
    }
    // Pages of 4 rows, the last one first.
    const int64_t pages = (keys + 3) / 4;
    for (int64_t page = 0; page < pages; ++page) {
      table.push_back(static_cast<int32_t>(pages - 1 - page));
    }
    page_data.resize(static_cast<size_t>(pages * 4 * row_bytes));
    paged = {{page_data.data(), row_bytes, table.data(), 2, 4 * row_bytes}, type, dim};
    CopyToPages();
  }
  void Set(int64_t key, int64_t i, float x) {
    char* const row = data.data() + key * whole.rows.row_stride;
    SetElement(row, whole.element, i, x);
    values[static_cast<size_t>(key * whole.dim + i)] = ElementAt(row, whole.element, i);
  }
  void CopyToPages() {
    for (int64_t j = 0; j < count; ++j) {
      std::memcpy(const_cast<char*>(paged.rows.Row(j)), whole.rows.Row(j),
                  static_cast<size_t>(whole.rows.row_stride));
    }
  }
  double At(int64_t key, int64_t i) const {
    return static_cast<double>(values[static_cast<size_t>(key * whole.dim + i)]);
  }

  int64_t count;
  std::vector<float> values;
  std::vector<char> data, page_data;
  std::vector<int32_t> table;
  MipsKeys whole, paged;
};

TEST_P(MipsCoreTest, FollowsTheDefinition) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    const int64_t count = 1 + static_cast<int64_t>(seed * 7 % 90);
    const int64_t dim = 1 + static_cast<int64_t>(seed * 11 % 70);
    const int64_t begin = static_cast<int64_t>(seed) % count, n = count - begin;
    const bool centred = seed % 4 != 0;
    Keys keys(seed, static_cast<Element>(seed % 3), count, dim);
    std::vector<float> scratch(static_cast<size_t>(dim)), centre(scratch);
    MipsCentre(keys.whole, begin, count, centred, GetParam(), scratch.data(), centre.data());
    for (int64_t i = 0; i < dim; ++i) {
      double mean = 0;
      for (int64_t j = begin; centred && j < count; ++j) {
        mean += keys.At(j, i) / static_cast<double>(n);
      }
      EXPECT_NEAR(static_cast<double>(centre[static_cast<size_t>(i)]), mean, 10 * kEpsilon);
    }
    const float distance =
        MipsDistance(keys.whole, begin, count, centre.data(), GetParam(), scratch.data());
    std::vector<double> distances;
    for (int64_t j = begin; j < count; ++j) {
      double squares = 0;
      for (int64_t i = 0; i < dim; ++i) {
        squares += std::pow(keys.At(j, i) - static_cast<double>(centre[static_cast<size_t>(i)]), 2);
      }
      distances.push_back(std::sqrt(squares));
    }
    const double most = *std::max_element(distances.begin(), distances.end());
    const double rounding = static_cast<double>(dim + 4) * kEpsilon;
    EXPECT_NEAR(static_cast<double>(distance), most, rounding * most);
    const MipsSphere sphere = {centre.data(), MipsRadius(distance)};
    std::vector<float> out(static_cast<size_t>(n * (dim + 1)));
    MipsTransformKeys(keys.whole, begin, count, sphere, GetParam(), out.data());
    for (int64_t j = 0; j < n; ++j) {
      const float* const row = out.data() + j * (dim + 1);
      const double radius = static_cast<double>(sphere.radius);
      double share = distances[static_cast<size_t>(j)] / radius;
      for (int64_t i = 0; i < dim; ++i) {
        const double wanted =
            (keys.At(begin + j, i) - static_cast<double>(centre[static_cast<size_t>(i)])) / radius;
        EXPECT_NEAR(static_cast<double>(row[i]), wanted, 3 * kEpsilon);
      }
      // Of the square, whose root near 0 magnifies.
      EXPECT_NEAR(std::pow(static_cast<double>(row[dim]), 2), 1 - std::min(1., share * share),
                  4 * rounding);
    }
  }
}

TEST_P(MipsCoreTest, PagesAndInstructionSetsDoNotMatter) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    CountCase(GetParam());
    const Keys keys(seed, static_cast<Element>(seed % 3), 37, 24 + static_cast<int64_t>(seed));
    const auto all = [&](const MipsKeys& view, Isa isa) {
      const size_t dim = static_cast<size_t>(view.dim);
      std::vector<float> scratch(dim), result(dim + 1 + 30 * (dim + 1));
      float* const centre = result.data();
      MipsCentre(view, 3, 37, true, isa, scratch.data(), centre);
      centre[dim] = MipsDistance(view, 3, 37, centre, isa, scratch.data());
      MipsTransformKeys(view, 7, 37, {centre, centre[dim]}, isa, centre + dim + 1);
      return result;
    };
    const std::vector<float> expected = all(keys.whole, Isa::kGeneric);
    EXPECT_EQ(all(keys.whole, GetParam()), expected);
    EXPECT_EQ(all(keys.paged, GetParam()), expected);
  }
}

TEST(MipsCore, KeysThatAreNotFiniteTakeNoPart) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Keys keys(3, Element::kFloat32, 20, 9);
    std::vector<float> scratch(9), clean(9), centre(9);
    const auto fit = [&](int64_t end, std::vector<float>& to) {
      MipsCentre(keys.whole, 0, end, true, BestIsa(), scratch.data(), to.data());
      return MipsDistance(keys.whole, 0, end, to.data(), BestIsa(), scratch.data());
    };
    const float radius = fit(18, clean);
    keys.Set(18, 8, bad);
    keys.Set(19, 0, -bad);
    EXPECT_EQ(fit(20, centre), radius);
    EXPECT_EQ(centre, clean);
    EXPECT_EQ(MipsDistance(keys.whole, 18, 20, clean.data(), BestIsa(), scratch.data()), 0);
  }
}

TEST(MipsCore, KeysInTheCentreAndNoKeys) {
  Keys keys(1, Element::kFloat32, 3, 4);
  for (int64_t j = 0; j < 3; ++j) {
    for (int64_t i = 0; i < 4; ++i) keys.Set(j, i, 2);
  }
  std::vector<float> scratch(4), centre(4, -1), out(5);
  MipsCentre(keys.whole, 0, 0, true, BestIsa(), scratch.data(), centre.data());
  EXPECT_EQ(centre, std::vector<float>(4, 0));
  MipsCentre(keys.whole, 0, 3, true, BestIsa(), scratch.data(), centre.data());
  EXPECT_EQ(centre, std::vector<float>(4, 2));
  const float distance = MipsDistance(keys.whole, 0, 3, centre.data(), BestIsa(), scratch.data());
  EXPECT_EQ(distance, 0);
  EXPECT_EQ(MipsRadius(distance), 1);
  MipsTransformKeys(keys.whole, 1, 2, {centre.data(), 1}, BestIsa(), out.data());
  EXPECT_EQ(out, (std::vector<float>{0, 0, 0, 0, 1}));
}

TEST(MipsCore, DirectionsHaveNoLength) {
  const std::vector<float> x = {3, 0, 4, 0, -5, 0, 0, 0, 0};
  std::vector<float> sum(3);
  SumOfDirections(x.data(), 3, 3, sum.data());
  EXPECT_FLOAT_EQ(sum[0], 0.6f);
  EXPECT_FLOAT_EQ(sum[1], -1);
  EXPECT_FLOAT_EQ(sum[2], 0.8f);
  EXPECT_EQ(VectorNorm(x.data(), 3), 5);
}

}  // namespace
}  // namespace sparse_attention::cpu
