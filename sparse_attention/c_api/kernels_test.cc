// The kernels of the C API against float64 sums, on keys and values in any layout.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "sparse_attention/c_api/c_api_testing.h"

namespace sparse_attention::c_api {
namespace {

using cpu::Element;

struct Shape {
  Element element;
  int32_t rows, dim, value_dim;
  int64_t keys, page_size;  // 0: contiguous
};

// Rows in memory of their own, and what they hold in double.
struct Data {
  explicit Data(const Shape& shape, uint64_t seed) : shape(shape) {
    const int64_t bytes = cpu::ElementBytes(shape.element);
    q = RandomElements(seed, shape.rows * shape.dim, shape.element);
    int64_t slots = shape.keys;
    if (shape.page_size != 0) {
      const int64_t pages = (shape.keys + shape.page_size - 1) / shape.page_size;
      table.resize(static_cast<size_t>(pages));
      std::iota(table.rbegin(), table.rend(), 1);  // page 0 belongs to nobody
      slots = (pages + 1) * shape.page_size;
    }
    k = RandomElements(seed + 1, slots * shape.dim, shape.element);
    v = RandomElements(seed + 2, slots * shape.value_dim, shape.element);
    problem = Sized<sah_attention>();
    problem.dtype = static_cast<int32_t>(shape.element);
    problem.rows = shape.rows;
    problem.dim = shape.dim;
    problem.value_dim = shape.value_dim;
    problem.q = q.data();
    problem.q_stride = shape.dim * bytes;
    problem.k = k.data();
    problem.v = v.data();
    problem.k_row_stride = shape.dim * bytes;
    problem.v_row_stride = shape.value_dim * bytes;
    problem.keys = shape.keys;
    problem.page_size = shape.page_size;
    problem.pages = static_cast<int64_t>(table.size()) + 1;
    problem.k_page_stride = shape.page_size * problem.k_row_stride;
    problem.v_page_stride = shape.page_size * problem.v_row_stride;
    problem.block_table = table.data();
  }
  int64_t Slot(int64_t key) const {
    if (shape.page_size == 0) return key;
    return table[static_cast<size_t>(key / shape.page_size)] * shape.page_size +
           key % shape.page_size;
  }
  double Logit(int32_t row, int64_t key) const {
    double sum = 0;
    for (int32_t c = 0; c < shape.dim; ++c) {
      sum += double{cpu::ElementAt(q.data(), shape.element, row * shape.dim + c)} *
             cpu::ElementAt(k.data(), shape.element, Slot(key) * shape.dim + c);
    }
    const double x = sum * (problem.scale != 0 ? problem.scale : 1 / std::sqrt(shape.dim));
    return problem.softcap == 0 ? x : problem.softcap * std::tanh(x / problem.softcap);
  }
  double Value(int64_t key, int32_t c) const {
    return cpu::ElementAt(v.data(), shape.element, Slot(key) * shape.value_dim + c);
  }

  Shape shape;
  std::vector<char> q, k, v;
  std::vector<int32_t> table;
  sah_attention problem;
};

struct State {
  State(int32_t rows, int32_t value_dim, int64_t pad = 3)
      : max(rows, 7.0f), sum(rows, 7.0f), out(rows * (value_dim + pad), 7.0f) {
    state = {max.data(), sum.data(), out.data(), value_dim + pad};
    EXPECT_SAH(SAH_OK, sah_state_init(rows, value_dim, &state));
  }
  std::vector<float> max, sum, out;
  sah_state state;
};

// Terms of a row: key and weight.
using Terms = std::vector<std::pair<int64_t, double>>;

void ExpectFinished(const Data& data, const sah_state& state, const std::vector<Terms>& terms,
                    const float* sinks = nullptr) {
  const Shape& shape = data.shape;
  const int64_t bytes = cpu::ElementBytes(shape.element), stride = (shape.value_dim + 2) * bytes;
  std::vector<char> out(static_cast<size_t>(shape.rows * stride));
  std::vector<float> lse(shape.rows);
  ASSERT_SAH_OK(sah_state_finish(shape.rows, shape.value_dim, &state, sinks, data.problem.dtype,
                                 out.data(), stride, lse.data()));
  // Rounding of the output, and of products and exponentials in fp32.
  const double unit = shape.element == Element::kFloat32   ? 0x1p-24
                      : shape.element == Element::kFloat16 ? 0x1p-11
                                                           : 0x1p-8;
  for (int32_t r = 0; r < shape.rows; ++r) {
    double denominator = sinks == nullptr ? 0 : std::exp(double{sinks[r]}), widest = 0;
    std::vector<double> sums(shape.value_dim, 0.0);
    for (const auto& [key, weight] : terms[r]) {
      const double x = data.Logit(r, key), e = weight * std::exp(x);
      widest = std::max(widest, std::abs(x));
      denominator += e;
      for (int32_t c = 0; c < shape.value_dim; ++c) sums[c] += e * data.Value(key, c);
    }
    if (denominator == 0) {
      EXPECT_EQ(lse[r], -INFINITY);
    } else {
      EXPECT_NEAR(lse[r], std::log(denominator), 0x1p-18 * (1 + widest));
    }
    for (int32_t c = 0; c < shape.value_dim; ++c) {
      const double expected = denominator == 0 ? 0 : sums[c] / denominator;
      const double got = cpu::ElementAt(out.data() + r * stride, shape.element, c);
      // Values are at most about 5; errors of weights are relative.
      EXPECT_NEAR(got, expected, unit * std::abs(expected) + 0x1p-17 * (1 + widest))
          << r << " " << c;
    }
  }
}

std::vector<Shape> Shapes() {
  return {{Element::kFloat32, 1, 16, 16, 100, 0},    {Element::kFloat32, 16, 7, 5, 33, 0},
          {Element::kBFloat16, 4, 128, 64, 700, 16}, {Element::kFloat16, 3, 64, 80, 257, 1},
          {Element::kBFloat16, 8, 40, 256, 90, 64},  {Element::kFloat32, 2, 256, 1, 1, 0}};
}

TEST(Kernels, RangesAndListsAddUp) {
  uint64_t seed = 10;
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(shape.keys);
    Data data(shape, seed += 10);
    data.problem.scale = shape.rows == 4 ? 0.25f : 0;
    data.problem.softcap = shape.rows == 3 ? 2.0f : 0;
    State state(shape.rows, shape.value_dim);
    std::vector<Terms> terms(shape.rows);
    ExpectFinished(data, state.state, terms);  // no key yet

    const int64_t middle = shape.keys / 3;
    std::vector<int64_t> first(shape.rows), last(shape.rows);
    for (int32_t r = 0; r < shape.rows; ++r) {
      first[r] = r - 1;  // before the range, too
      last[r] = middle - r;
      for (int64_t j = std::max<int64_t>(0, first[r]); j < last[r]; ++j) terms[r].push_back({j, 1});
    }
    ASSERT_SAH_OK(
        sah_attend_range(&data.problem, 0, middle, first.data(), last.data(), &state.state));
    ExpectFinished(data, state.state, terms);

    // Every second key behind; of these, members and weights by row.
    std::vector<uint32_t> keys;
    std::vector<uint16_t> members;
    for (int64_t j = middle; j < shape.keys; j += 2) {
      keys.push_back(static_cast<uint32_t>(j));
      members.push_back(static_cast<uint16_t>(j * 2654435761u >> 7));
    }
    sah_key_list list = Sized<sah_key_list>();
    list.keys = keys.data();
    list.count = static_cast<int64_t>(keys.size());
    list.members = members.data();
    ASSERT_SAH_OK(sah_attend_list(&data.problem, &list, &state.state));
    const auto add = [&](int32_t r, size_t i, double weight) {
      if (members[i] >> r & 1) terms[r].push_back({keys[i], weight});
    };
    for (int32_t r = 0; r < shape.rows; ++r) {
      for (size_t i = 0; i < keys.size(); ++i) add(r, i, 1);
    }
    ExpectFinished(data, state.state, terms);

    std::vector<float> weights;
    const int64_t stride = list.count + 1;
    for (int64_t i = 0; i < shape.rows * stride; ++i) {
      weights.push_back(1 + static_cast<float>(i % 13));
    }
    list.inverse_probabilities = weights.data();
    for (int64_t of_rows : {stride, int64_t{0}}) {
      list.inverse_probability_stride = of_rows;
      ASSERT_SAH_OK(sah_attend_list(&data.problem, &list, &state.state));
      for (int32_t r = 0; r < shape.rows; ++r) {
        for (size_t i = 0; i < keys.size(); ++i) {
          add(r, i, weights[static_cast<size_t>(r * of_rows) + i]);
        }
      }
      ExpectFinished(data, state.state, terms);
    }
    std::vector<float> sinks(shape.rows, 1.5f);
    ExpectFinished(data, state.state, terms, sinks.data());
  }
}

TEST(Kernels, LongWeightedListsGoThroughInPieces) {
  Data data({Element::kFloat32, 2, 16, 16, 1500, 0}, 5);
  std::vector<uint32_t> keys(1500);
  std::iota(keys.begin(), keys.end(), 0);
  std::vector<float> weights(3000);
  std::vector<uint16_t> members(1500);
  std::vector<Terms> terms(2);
  for (int64_t i = 0; i < 1500; ++i) {
    members[i] = static_cast<uint16_t>(i % 7 % 4);  // pieces differ
    for (int32_t r : {0, 1}) {
      weights[r * 1500 + i] = static_cast<float>(1 + (i * 7 + r) % 97);
      if (members[i] >> r & 1) terms[r].push_back({i, weights[r * 1500 + i]});
    }
  }
  sah_key_list list = Sized<sah_key_list>();
  list.keys = keys.data();
  list.count = 1500;
  list.members = members.data();
  list.inverse_probabilities = weights.data();
  list.inverse_probability_stride = 1500;
  State state(2, 16);
  ASSERT_SAH_OK(sah_attend_list(&data.problem, &list, &state.state));
  ExpectFinished(data, state.state, terms);
}

TEST(Kernels, PartsMerge) {
  for (const Shape& shape : Shapes()) {
    Data data(shape, 77);
    State left(shape.rows, shape.value_dim), right(shape.rows, shape.value_dim, 0),
        none(shape.rows, shape.value_dim);
    std::vector<Terms> terms(shape.rows);
    for (Terms& of_row : terms) {
      for (int64_t j = 0; j < shape.keys; ++j) of_row.push_back({j, 1});
    }
    const int64_t cut = shape.keys * 2 / 5;
    ASSERT_SAH_OK(sah_attend_range(&data.problem, 0, cut, nullptr, nullptr, &left.state));
    ASSERT_SAH_OK(sah_attend_range(&data.problem, cut, shape.keys, nullptr, nullptr, &right.state));
    ASSERT_SAH_OK(sah_state_merge(shape.rows, shape.value_dim, &none.state, &left.state));
    ASSERT_SAH_OK(sah_state_merge(shape.rows, shape.value_dim, &right.state, &left.state));
    ExpectFinished(data, left.state, terms);
  }
}

// Results of others, as output and log-sum-exp, are states.
TEST(Kernels, FinishedResultsMergeToo) {
  Data data({Element::kFloat32, 3, 32, 16, 50, 0}, 3);
  std::vector<Terms> terms(3);
  for (Terms& of_row : terms) {
    for (int64_t j = 0; j < 50; ++j) of_row.push_back({j, 1});
  }
  State first(3, 16), rest(3, 16);
  ASSERT_SAH_OK(sah_attend_range(&data.problem, 0, 20, nullptr, nullptr, &first.state));
  ASSERT_SAH_OK(sah_attend_range(&data.problem, 20, 50, nullptr, nullptr, &rest.state));
  std::vector<float> out(48), lse(3), ones(3, 1.0f);
  ASSERT_SAH_OK(
      sah_state_finish(3, 16, &first.state, nullptr, SAH_FLOAT32, out.data(), 64, lse.data()));
  const sah_state finished = {lse.data(), ones.data(), out.data(), 16};
  ASSERT_SAH_OK(sah_state_merge(3, 16, &finished, &rest.state));
  ExpectFinished(data, rest.state, terms);
}

TEST(Kernels, TopKIsExactWithTiesToTheLowestIndex) {
  PhiloxStream stream(1, RandomPurpose::kTest, 0, 0, 0);
  for (int64_t n : {1, 5, 63, 64, 65, 1000, 20000}) {
    std::vector<float> scores(n);
    std::vector<uint64_t> excluded((n + 63) / 64);
    for (float& x : scores) x = static_cast<float>(stream.Below(200)) - 100;
    for (int64_t j = 0; j < n; j += 3) excluded[j / 64] |= uint64_t{1} << (j % 64);
    scores[n / 2] = std::numeric_limits<float>::quiet_NaN();  // counts as +infinity
    for (const bool exclude : {false, true}) {
      std::vector<uint32_t> order;
      for (int64_t j = 0; j < n; ++j) {
        if (!exclude || j % 3 != 0) order.push_back(static_cast<uint32_t>(j));
      }
      const auto key = [&](uint32_t j) { return scores[j] != scores[j] ? INFINITY : scores[j]; };
      std::stable_sort(order.begin(), order.end(),
                       [&](uint32_t a, uint32_t b) { return key(a) > key(b); });
      for (int64_t k : {int64_t{0}, int64_t{1}, n / 10, n - 1, n, n + 5}) {
        std::vector<uint32_t> expected(
            order.begin(),
            order.begin() + std::min<int64_t>(k, static_cast<int64_t>(order.size())));
        std::sort(expected.begin(), expected.end());
        std::vector<uint32_t> selected(static_cast<size_t>(std::min(k, n)));
        int64_t count = -1;
        ASSERT_SAH_OK(sah_top_k(scores.data(), n, k, exclude ? excluded.data() : nullptr,
                                selected.data(), &count));
        selected.resize(static_cast<size_t>(count));
        EXPECT_EQ(selected, expected) << n << " " << k << " " << exclude;
      }
    }
  }
}

}  // namespace
}  // namespace sparse_attention::c_api
