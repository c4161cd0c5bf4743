// Random problems for tests of the attention kernels, and what they must give, in float64.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"

namespace sparse_attention::cpu {

using Random = std::mt19937_64;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kUnit = 0x1p-24;  // of fp32
constexpr float kGuard = 12345.5f;

inline int64_t Draw(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Rows of one sequence and KV head, in exactly the memory that they need, so that the address
// sanitizer sees every read beyond.
class RowBuffer {
 public:
  RowBuffer(Random& random, Element element, int64_t rows, int dim, bool paged)
      : element_(element), dim_(dim) {
    const int64_t bytes = ElementBytes(element) * dim;
    view_.row_stride = bytes + ElementBytes(element) * (Draw(random, 0, 1) * Draw(random, 0, 40));
    int64_t size = (rows - 1) * view_.row_stride + bytes;
    if (paged) {
      view_.page_shift = static_cast<int32_t>(Draw(random, 0, 6));
      const int64_t page = int64_t{1} << view_.page_shift;
      const int64_t pages = (rows + page - 1) / page, pool = pages + Draw(random, 0, 3);
      view_.page_stride = page * view_.row_stride;
      size = pool * view_.page_stride;
      table_.resize(pool);
      std::iota(table_.begin(), table_.end(), 0);
      std::shuffle(table_.begin(), table_.end(), random);
      view_.pages = table_.data();
    }
    // Not even aligned to elements' vectors.
    const int64_t shift = Draw(random, 0, 1) * Draw(random, 0, 31) * ElementBytes(element);
    memory_ = std::make_unique<char[]>(static_cast<size_t>(size + shift));
    view_.base = memory_.get() + shift;
    for (int64_t i = 0; i + ElementBytes(element) <= size; i += ElementBytes(element)) {
      SetElement(memory_.get() + shift + i, element, 0, kNan);  // between rows, in other pages
    }
    std::normal_distribution<float> normal;
    for (int64_t j = 0; j < rows; ++j) {
      for (int i = 0; i < dim; ++i) Set(j, i, normal(random));
    }
  }

  const RowView& view() const { return view_; }
  float At(int64_t row, int i) const { return ElementAt(view_.Row(row), element_, i); }
  void Set(int64_t row, int i, float value) {
    SetElement(const_cast<char*>(view_.Row(row)), element_, i, value);
  }
  void Fill(int64_t row, float value) {
    for (int i = 0; i < dim_; ++i) Set(row, i, value);
  }

 private:
  Element element_;
  int dim_;
  RowView view_;
  std::vector<int32_t> table_;
  std::unique_ptr<char[]> memory_;
};

struct Shape {
  Element element = Element::kBFloat16;
  int rows = 4, dim = 128, value_dim = 128;
  int64_t keys = 100;
  bool paged = false;
};

// A state with guards behind what may be written.
struct State {
  State(int rows, int value_dim)
      : rows(rows),
        value_dim(value_dim),
        stride(value_dim + 5),
        max(rows + 1, kGuard),
        sum(rows + 1, kGuard),
        out(rows * stride + 1, kGuard) {
    // What a state without keys holds has no meaning.
    for (int r = 0; r < rows; ++r) {
      max[r] = -kInfinity;
      sum[r] = kNan;
      std::fill_n(out.begin() + r * stride, value_dim, kNan);
    }
  }
  RunningState get() { return {max.data(), sum.data(), out.data(), stride}; }
  void CheckGuards() const {
    EXPECT_EQ(max[rows], kGuard);
    EXPECT_EQ(sum[rows], kGuard);
    for (int r = 0; r < rows; ++r) {
      for (int64_t i = value_dim; i < stride; ++i) ASSERT_EQ(out[r * stride + i], kGuard) << r;
    }
    EXPECT_EQ(out.back(), kGuard);
  }
  int rows, value_dim;
  int64_t stride;
  std::vector<float> max, sum, out;
};

struct Result {
  std::vector<std::vector<float>> out;
  std::vector<float> lse;
};

inline Result Finish(const AttentionKernels& kernels, State& state, Element element,
                     const float* sinks = nullptr) {
  state.CheckGuards();
  const int64_t bytes = ElementBytes(element), stride = state.value_dim * bytes + 6 * bytes;
  std::vector<char> out(static_cast<size_t>(state.rows * stride), 77);
  std::vector<float> lse(state.rows + 1, kGuard);
  kernels.finish(state.rows, state.value_dim, state.get(), sinks, element, out.data(), stride,
                 lse.data());
  EXPECT_EQ(lse.back(), kGuard);
  lse.pop_back();
  Result result = {{}, lse};
  for (int r = 0; r < state.rows; ++r) {
    result.out.emplace_back();
    for (int i = 0; i < state.value_dim; ++i) {
      result.out[r].push_back(ElementAt(out.data() + r * stride, element, i));
    }
    for (int64_t i = state.value_dim * bytes; i < stride; ++i) {
      EXPECT_EQ(out[static_cast<size_t>(r * stride + i)], 77) << "behind row " << r;
    }
  }
  return result;
}

// One problem, and what the kernels were asked for, in float64.
class Fixture {
 public:
  Fixture(const AttentionKernels& kernels, const Shape& shape, uint64_t seed)
      : kernels(kernels),
        shape(shape),
        random(seed),
        q(random, shape.element, shape.rows, shape.dim, false),
        k(random, shape.element, shape.keys, shape.dim, shape.paged),
        v(random, shape.element, shape.keys, shape.value_dim, shape.paged),
        state(shape.rows, shape.value_dim),
        seen(shape.rows) {
    problem.element = shape.element;
    problem.dim = shape.dim;
    problem.value_dim = shape.value_dim;
    problem.rows = shape.rows;
    problem.q = q.view().base;
    problem.q_stride = q.view().row_stride;
    problem.k = k.view();
    problem.v = v.view();
    problem.scale = 1 / std::sqrt(static_cast<float>(shape.dim));
  }

  // softcap(scale q.k), and what rounding may change in it.
  double Logit(int r, int64_t key, double* error) const {
    double dot = 0, size = 0;
    for (int i = 0; i < shape.dim; ++i) {
      const double product = static_cast<double>(q.At(r, i)) * k.At(key, i);
      dot += product;
      size += std::abs(product);
    }
    double x = problem.scale * dot;
    if (problem.softcap > 0) x = problem.softcap * std::tanh(x / problem.softcap);
    *error = kUnit * ((4 + std::sqrt(shape.dim)) * problem.scale * size + 8 * std::abs(x));
    return x;
  }
  void Expect(int r, int64_t key, double bias) {
    Seen entry = {key, 0, 0};
    entry.logit = Logit(r, key, &entry.error) + bias;
    entry.error += 2 * kUnit * (std::abs(bias) + std::abs(entry.logit));
    seen[r].push_back(entry);
  }

  void AttendRange(int64_t begin, int64_t end) {
    kernels.attend_range(problem, begin, end, nullptr, nullptr, state.get());
    for (int r = 0; r < shape.rows; ++r) {
      for (int64_t j = begin; j < end; ++j) Expect(r, j, 0);
    }
  }
  void AttendBoundedRange(int64_t begin, int64_t end) {
    std::vector<int64_t> low(shape.rows), high(shape.rows);
    for (int r = 0; r < shape.rows; ++r) {
      low[r] = Draw(random, begin - 3, end), high[r] = Draw(random, begin, end + 3);
      for (int64_t j = std::max(low[r], begin); j < std::min(high[r], end); ++j) Expect(r, j, 0);
    }
    kernels.attend_range(problem, begin, end, low.data(), high.data(), state.get());
  }
  void AttendRandomList(const std::vector<uint32_t>& keys) {
    const int64_t count = static_cast<int64_t>(keys.size());
    std::vector<uint16_t> members(keys.size());
    for (auto& m : members) m = static_cast<uint16_t>(random());
    const int64_t stride = count + Draw(random, 0, 3);
    std::vector<float> bias(static_cast<size_t>(shape.rows * stride));
    for (float& b : bias) b = static_cast<float>(Draw(random, -1000, 1000)) / 250;
    KeyList list = {keys.data(), count};
    if (Draw(random, 0, 1) == 0) list.members = members.data();
    if (Draw(random, 0, 1) == 0) list.bias = bias.data(), list.bias_stride = stride;
    for (float& b : list.row_bias) b = static_cast<float>(Draw(random, -4, 4)) / 2;
    for (int r = 0; r < shape.rows; ++r) {
      for (int64_t i = 0; i < count; ++i) {
        if (list.members != nullptr && !(members[i] >> r & 1)) continue;
        const double each = list.bias != nullptr ? bias[r * stride + i] : 0;
        Expect(r, keys[i], each + list.row_bias[r]);
      }
    }
    if (Draw(random, 0, 1) == 0) {
      kernels.attend_list(problem, list, state.get());
    } else {
      std::vector<float> logits(static_cast<size_t>(shape.rows * stride));
      kernels.logits_list(problem, keys.data(), count, logits.data(), stride);
      AttentionProblem scored = problem;
      scored.k = {};
      scored.q = nullptr;
      kernels.attend_scored_list(scored, list, logits.data(), stride, state.get());
    }
  }
  std::vector<uint32_t> RandomKeys(double share) {
    std::vector<uint32_t> keys;
    for (int64_t j = 0; j < shape.keys; ++j) {
      if (std::uniform_real_distribution<>()(random) < share) {
        keys.push_back(static_cast<uint32_t>(j));
      }
    }
    return keys;
  }

  // Keys that no row was asked to attend to hold what must have no effect.
  void PoisonTheUnseen(float poison) {
    std::vector<bool> used(shape.keys);
    for (const auto& row : seen) {
      for (const Seen& entry : row) used[entry.key] = true;
    }
    for (int64_t j = 0; j < shape.keys; ++j) {
      if (used[j]) continue;
      k.Fill(j, poison);
      v.Fill(j, poison);
    }
  }

  // Compares with the float64 softmax over everything seen; returns the largest error as a share
  // of what is allowed.
  double Check(Element out_element) {
    const Result result = Finish(kernels, state, out_element);
    double worst = 0;
    for (int r = 0; r < shape.rows; ++r) {
      double max = -kInfinity, sum = 0, error = 0, largest = 0;
      for (const Seen& entry : seen[r]) max = std::max(max, entry.logit);
      std::vector<double> out(shape.value_dim);
      for (const Seen& entry : seen[r]) {
        const double weight = std::exp(entry.logit - max);
        sum += weight;
        if (entry.logit > max - 30) error = std::max(error, entry.error);
        for (int i = 0; i < shape.value_dim; ++i) {
          const double value = v.At(entry.key, i);
          out[i] += weight * value;
          largest = std::max(largest, std::abs(value));
        }
      }
      if (seen[r].empty()) {
        EXPECT_THAT(result.out[r], ::testing::Each(0.0f)) << "row " << r;
        EXPECT_EQ(result.lse[r], -kInfinity);
        continue;
      }
      const double relative = 2 * error + kUnit * (24 + std::sqrt(seen[r].size()));
      const double rounding = out_element == Element::kBFloat16  ? 0x1p-8
                              : out_element == Element::kFloat16 ? 0x1p-11
                                                                 : kUnit;
      for (int i = 0; i < shape.value_dim; ++i) {
        const double exact = out[i] / sum;
        const double allowed = relative * largest + rounding * 1.01 * std::abs(exact) + 0x1p-25;
        const double share = std::abs(result.out[r][i] - exact) / allowed;
        EXPECT_LE(share, 1) << "row " << r << ", element " << i << ": " << result.out[r][i]
                            << " for " << exact;
        if (!(share <= 1)) return share;
        worst = std::max(worst, share);
      }
      const double lse = max + std::log(sum);
      EXPECT_LE(std::abs(result.lse[r] - lse), relative + 2 * kUnit * std::abs(lse)) << "row " << r;
    }
    return worst;
  }

  struct Seen {
    int64_t key;
    double logit, error;
  };
  const AttentionKernels& kernels;
  const Shape shape;
  Random random;
  RowBuffer q, k, v;
  AttentionProblem problem;
  State state;
  std::vector<std::vector<Seen>> seen;
};

inline Shape RandomShape(Random& random) {
  static constexpr int kDims[] = {32, 64, 80, 96, 112, 120, 128, 192, 256};
  Shape shape;
  shape.element = static_cast<Element>(Draw(random, 0, 2));
  shape.rows = static_cast<int>(Draw(random, 1, kMaxRows));
  const auto dim = [&] {
    return static_cast<int>(Draw(random, 0, 3) == 0 ? Draw(random, 1, kMaxDim)
                                                    : kDims[Draw(random, 0, std::size(kDims) - 1)]);
  };
  shape.dim = dim();
  shape.value_dim = Draw(random, 0, 2) == 0 ? dim() : shape.dim;
  shape.keys = Draw(random, 0, 9) == 0 ? Draw(random, 1000, 3000) : Draw(random, 1, 200);
  shape.paged = Draw(random, 0, 1) == 0;
  return shape;
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TESTING_H_
