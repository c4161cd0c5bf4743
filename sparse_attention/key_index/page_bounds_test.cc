#include "sparse_attention/key_index/page_bounds.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/key_index/quantize_core.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kGuard = -77;

class PageBoundsTest : public IsaTest {};

TEST_P(PageBoundsTest, AreThoseOfPlainLoops) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    const auto below = [&](int64_t bound) {
      return static_cast<int64_t>(engine() % static_cast<uint64_t>(bound));
    };
    const int64_t dim = 1 + below(140), page_size = 1 + below(20);
    const int64_t label_bits = seed % 3 == 0 ? 4 : 16;
    KeyRows keys;
    keys.element = static_cast<Element>(below(3));
    keys.rows = below(60);
    const int64_t bytes = ElementBytes(keys.element);
    keys.row_stride = (dim + below(3)) * bytes;
    std::vector<char> data(keys.rows == 0 ? 0 : (keys.rows - 1) * keys.row_stride + dim * bytes);
    keys.data = data.data();
    for (int64_t j = 0; j < keys.rows; ++j) {
      char* const row = data.data() + j * keys.row_stride;
      for (int64_t i = 0; i < dim; ++i) SetElement(row, keys.element, i, normal(engine));
      constexpr float kOdd[] = {NAN, INFINITY, -INFINITY};
      if (below(3) == 0) SetElement(row, keys.element, below(dim), kOdd[below(3)]);
    }
    const int64_t pages = (keys.rows + page_size - 1) / page_size;
    std::vector<float> low(pages * dim + 1, kGuard), high = low;
    EncodePageBounds(keys, dim, page_size, label_bits, GetParam(), low.data(), high.data());
    for (int64_t p = 0; p < pages; ++p) {
      std::vector<float> least(dim, INFINITY), most(dim, -INFINITY);
      for (int64_t j = p * page_size; j < std::min(keys.rows, (p + 1) * page_size); ++j) {
        std::vector<float> row;
        for (int64_t i = 0; i < dim; ++i) row.push_back(ElementAt(keys.Row(j), keys.element, i));
        if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); }))
          continue;
        for (int64_t i = 0; i < dim; ++i) {
          least[i] = std::min(least[i], row[i]);
          most[i] = std::max(most[i], row[i]);
        }
      }
      if (std::isinf(least[0])) {
        std::fill(least.begin(), least.end(), 0.f);
        std::fill(most.begin(), most.end(), 0.f);
      }
      if (label_bits < 16) {
        PseudoQuantizeVector(least.data(), dim, label_bits);
        PseudoQuantizeVector(most.data(), dim, label_bits);
      }
      for (int64_t i = 0; i < dim; ++i) {
        ASSERT_EQ(low[p * dim + i], least[i]) << "page " << p << ", channel " << i;
        ASSERT_EQ(high[p * dim + i], most[i]) << "page " << p << ", channel " << i;
      }
    }
    EXPECT_EQ(low.back(), kGuard);
    EXPECT_EQ(high.back(), kGuard);
  }
}

SA_INSTANTIATE_ISAS(PageBoundsTest);

}  // namespace
}  // namespace sparse_attention::cpu
