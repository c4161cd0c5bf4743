#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Element kElements[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};

// What is left of x after quantisation, as the research engine computes it.
void PseudoQuantize(std::vector<float>& x, int bits) {
  const float low = *std::min_element(x.begin(), x.end());
  const float range = *std::max_element(x.begin(), x.end()) - low;
  const float levels = static_cast<float>((1 << bits) - 1);
  const float scale = 1 / (range == 0 ? 1 : range) * levels;
  for (float& v : x) {
    v = std::clamp(std::nearbyint((v - low) * scale), 0.f, levels) / scale + low;
  }
}

class PageBoundsTest : public IsaTest {
 protected:
  const PageBoundsKernels kernels_ = PageBoundsKernelsFor(GetParam());

  void CheckScores(TestRandom& random) {
    CountCase(GetParam());
    const Element query_element = random.OneOf(kElements);
    const Element element = random.OneIn(2) ? query_element : random.OneOf(kElements);
    const int32_t dim = static_cast<int32_t>(random.OneIn(2) ? 128 : random.Between(1, 150));
    const int32_t rows = static_cast<int32_t>(random.Between(1, kMaxScoreRows));
    const int64_t end = random.Between(0, 20), begin = random.Between(0, end), n = end - begin;
    const RowReduce reduce = random.OneOf(kRowReduces);
    const int64_t bytes = ElementBytes(element), query_bytes = ElementBytes(query_element);
    const int64_t page_stride = (2 * dim + random.Between(0, 3)) * bytes;
    const int64_t query_stride = (dim + random.Between(0, 3)) * query_bytes;
    Exact<char> bounds(end == 0 ? 0 : (end - 1) * page_stride + 2 * dim * bytes);
    Exact<char> queries((rows - 1) * query_stride + dim * query_bytes);
    const bool tiny = random.OneIn(8);  // below the normal range of a float16, or of all
    const float scale = tiny ? random.OneIn(2) ? 1e-6f : 1e-38f : 1;
    for (int64_t page = 0; page < end; ++page) {
      for (int32_t i = 0; i < 2 * dim; ++i) {
        SetElement(bounds.data() + page * page_stride, element, i, scale * random.Normal());
      }
    }
    const bool not_finite = random.OneIn(6);
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t i = 0; i < dim; ++i) {
        float q = random.Normal();
        if (not_finite && random.OneIn(2 * dim)) q = random.OneIn(2) ? std::nanf("") : -kInfinity;
        SetElement(queries.data() + r * query_stride, query_element, i, q);
      }
    }
    Guarded<float> split(SplitQueryBytes(dim, rows) / 4);
    PageBoundsProblem p = {query_element, element,       dim,         rows,
                           split.data(),  bounds.data(), page_stride, reduce};
    kernels_.split_queries(p, queries.data(), query_stride, split.data());
    ASSERT_TRUE(split.intact());
    const int64_t stride = n + random.Between(0, 5);
    const int lines = reduce == RowReduce::kNone ? rows : 1;
    Guarded<float> out(n == 0 ? 0 : (lines - 1) * stride + n);
    kernels_.score(p, begin, end, out.data(), stride);
    ASSERT_TRUE(out.intact());
    for (int64_t page = begin; page < end; ++page) {
      std::vector<double> exact(rows), magnitude(rows);
      double largest = 0;
      for (int r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < dim; ++i) {
          const double q = ElementAt(queries.data() + r * query_stride, query_element, i);
          const void* const of_page = bounds.data() + page * page_stride;
          const double high = ElementAt(of_page, element, i);
          const double low = ElementAt(of_page, element, dim + i);
          exact[r] += (q < 0 ? 0 : q) * high + (q > 0 ? 0 : q) * low;
          magnitude[r] += std::abs((q < 0 ? 0 : q) * high) + std::abs((q > 0 ? 0 : q) * low);
          largest = std::max({largest, std::abs(q), std::abs(high), std::abs(low)});
        }
      }
      const auto check = [&](float got, double expected, double m, double sum) {
        if (!std::isfinite(expected)) {
          ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : got == expected)
              << got << " for " << expected;
          return;
        }
        const double u = m * 0x1p-24;
        ASSERT_LE(std::abs(got - expected), u / (1 - u) * sum + 0x1p-126 * m * (1 + 2 * largest));
      };
      const double m = 2 * dim + 8;
      if (reduce == RowReduce::kNone) {
        for (int r = 0; r < rows; ++r) {
          check(out[r * stride + page - begin], exact[r], m, magnitude[r]);
        }
      } else {
        const bool max = reduce == RowReduce::kMax;
        check(out[page - begin], ReduceRows(exact.data(), rows, reduce), max ? m : m + rows,
              ReduceRows(magnitude.data(), rows, reduce) * (1 + 1e-9));
      }
      if (HasFatalFailure()) return;
    }
  }

  void CheckUpdate(TestRandom& random) {
    CountCase(GetParam());
    const Element element = random.OneOf(kElements);
    const int32_t dim = static_cast<int32_t>(random.Between(1, 70));
    const int64_t page_size = random.Between(1, 20), end = random.Between(1, 100);
    const int64_t page_begin = random.Between(0, (end - 1) / page_size);
    const int32_t label_bits = static_cast<int32_t>(random.OneIn(2) ? 16 : random.Between(1, 15));
    const int64_t pages = (end + page_size - 1) / page_size, bytes = ElementBytes(element);
    const Element bounds_element = BoundsElement(element, label_bits);
    const int64_t row_stride = dim * bytes;
    // Pages of 4 rows in some order, or side by side.
    const bool paged = random.OneIn(2);
    Exact<char> memory((end + 3) / 4 * 4 * row_stride);
    std::vector<int32_t> table((end + 3) / 4);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
    RowView keys;
    keys.base = memory.data();
    keys.row_stride = row_stride;
    if (paged) {
      keys.pages = table.data();
      keys.page_shift = 2;
      keys.page_stride = 4 * row_stride;
    }
    const bool constant = random.OneIn(8);
    std::vector<bool> finite(end, true);
    for (int64_t j = 0; j < end; ++j) {
      char* const row = const_cast<char*>(keys.Row(j));
      for (int32_t i = 0; i < dim; ++i) SetElement(row, element, i, constant ? 2 : random.Normal());
      if (random.OneIn(4)) {
        finite[j] = false;
        SetElement(row, element, random.Between(0, dim - 1),
                   random.OneIn(2)   ? std::nanf("")
                   : random.OneIn(2) ? kInfinity
                                     : -kInfinity);
      }
    }
    const int64_t page_stride = 2 * dim * ElementBytes(bounds_element);
    Guarded<char> bounds(pages * page_stride);
    std::memset(bounds.data(), 0x7B, static_cast<size_t>(bounds.size()));
    kernels_.update(keys, element, dim, page_size, label_bits, page_begin * page_size, end,
                    bounds.data(), page_stride);
    ASSERT_TRUE(bounds.intact());
    for (int64_t i = 0; i < page_begin * page_stride; ++i) ASSERT_EQ(bounds[i], 0x7B);
    for (int64_t page = page_begin; page < pages; ++page) {
      std::vector<float> high(dim), low(dim);
      bool any = false;
      for (int64_t j = page * page_size; j < std::min(end, (page + 1) * page_size); ++j) {
        if (!finite[j]) continue;
        for (int32_t i = 0; i < dim; ++i) {
          const float x = ElementAt(keys.Row(j), element, i);
          high[i] = any ? std::max(high[i], x) : x;
          low[i] = any ? std::min(low[i], x) : x;
        }
        any = true;
      }
      if (label_bits < 16) {
        PseudoQuantize(high, label_bits);
        PseudoQuantize(low, label_bits);
      }
      for (int32_t i = 0; i < dim; ++i) {
        const void* const of_page = bounds.data() + page * page_stride;
        ASSERT_EQ(ElementAt(of_page, bounds_element, i), high[i]) << "page " << page;
        ASSERT_EQ(ElementAt(of_page, bounds_element, dim + i), low[i]) << "page " << page;
      }
    }
  }
};
SA_INSTANTIATE_ISAS(PageBoundsTest);

TEST_P(PageBoundsTest, ScoresWithinTheRoundingBound) {
  for (int i = 0; i < SeedCount(600); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    CheckScores(random);
    if (HasFatalFailure()) return;
  }
}

TEST_P(PageBoundsTest, UpdatesEqualAFreshBuild) {
  for (int i = 0; i < SeedCount(400); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    CheckUpdate(random);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
