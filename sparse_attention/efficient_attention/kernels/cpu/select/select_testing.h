// What tests of selection share: random rows that replay from their seed, the definition of top-k
// by sorting, and memory that ends where it says.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_SELECT_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_SELECT_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace sparse_attention::cpu {

// The k highest of scores[j] where eligible[j], as the research engine defines them.
template <typename T>
std::vector<bool> SortedTopK(const std::vector<T>& scores, const std::vector<bool>& eligible,
                             int64_t k) {
  std::vector<int64_t> order;
  std::vector<double> value(scores.size());
  for (size_t j = 0; j < scores.size(); ++j) {
    double x = static_cast<double>(scores[j]);
    if (std::isnan(x)) x = std::numeric_limits<double>::infinity();
    value[j] = std::max<double>(x, std::numeric_limits<float>::lowest());
    if (eligible[j]) order.push_back(static_cast<int64_t>(j));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return value[a] > value[b]; });
  std::vector<bool> selected(scores.size());
  for (int64_t i = 0; i < std::min<int64_t>(k, static_cast<int64_t>(order.size())); ++i) {
    selected[order[i]] = true;
  }
  return selected;
}

inline std::vector<uint64_t> ToBitmap(const std::vector<bool>& bits) {
  std::vector<uint64_t> words((bits.size() + 63) / 64);
  for (size_t j = 0; j < bits.size(); ++j) words[j / 64] |= uint64_t{bits[j]} << (j % 64);
  return words;
}

inline std::vector<bool> RandomBits(std::mt19937_64& random, int64_t n, double share) {
  std::bernoulli_distribution bit(share);
  std::vector<bool> bits(n);
  for (int64_t j = 0; j < n; ++j) bits[j] = bit(random);
  return bits;
}

// 64-byte aligned memory with guards on both sides that Intact() looks at.
class Guarded {
 public:
  explicit Guarded(int64_t bytes)
      : bytes_(bytes),
        memory_(static_cast<char*>(std::aligned_alloc(64, (bytes + 128 + 63) / 64 * 64)),
                &std::free) {
    std::fill_n(memory_.get(), 64, kGuard);
    std::fill_n(memory_.get() + 64 + bytes, 64, kGuard);
  }
  char* get() { return memory_.get() + 64; }
  bool Intact() const {
    const auto is_guard = [](char c) { return c == kGuard; };
    return std::all_of(memory_.get(), memory_.get() + 64, is_guard) &&
           std::all_of(memory_.get() + 64 + bytes_, memory_.get() + 128 + bytes_, is_guard);
  }

 private:
  static constexpr char kGuard = 0x5A;
  int64_t bytes_;
  std::unique_ptr<char, decltype(&std::free)> memory_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_SELECT_TESTING_H_
