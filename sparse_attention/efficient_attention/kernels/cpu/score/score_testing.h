// What the tests of scoring kernels share: random numbers with a seed to replay a failure by, and
// buffers that show reads and writes beyond their ends.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SCORE_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SCORE_TESTING_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

constexpr RowReduce kRowReduces[] = {RowReduce::kNone, RowReduce::kMax, RowReduce::kSum,
                                     RowReduce::kMean};

class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : engine_(seed) {}
  uint64_t Bits() { return engine_(); }
  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine_() % static_cast<uint64_t>(most - least + 1));
  }
  bool OneIn(int64_t n) { return Between(1, n) == 1; }
  float Normal() { return static_cast<float>(normal_(engine_)); }
  template <typename T, size_t n>
  T OneOf(const T (&choices)[n]) {
    return choices[Between(0, static_cast<int64_t>(n) - 1)];
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

// Seeds of generated cases: from SA_TEST_SEED on, which replays a case that failed.
inline uint64_t FirstSeed() {
  const char* const seed = std::getenv("SA_TEST_SEED");
  return seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10);
}
inline int SeedCount(int count) { return std::getenv("SA_TEST_SEED") == nullptr ? count : 1; }

// `size` values that end where the memory does, so that the address sanitizer sees the first byte
// read beyond them; on both sides bytes that a write would change. Starts at an address that is a
// multiple of 4 or 8 alone.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t size) : size_(size), memory_(new char[kGuard + Bytes(size) + kGuard]) {
    std::memset(memory_.get(), kPattern, kGuard + Bytes(size) + kGuard);
  }
  T* data() { return reinterpret_cast<T*>(memory_.get() + kGuard); }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t size() const { return size_; }
  bool intact() const {
    for (int64_t i = 0; i < kGuard; ++i) {
      if (memory_[i] != kPattern || memory_[kGuard + Bytes(size_) + i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = sizeof(T) == 8 ? 40 : 36;
  static constexpr char kPattern = 0x5A;
  static int64_t Bytes(int64_t size) { return size * static_cast<int64_t>(sizeof(T)); }
  int64_t size_;
  std::unique_ptr<char[]> memory_;
};

// The same without guards, for inputs: the memory ends with the values.
template <typename T>
class Exact {
 public:
  explicit Exact(int64_t size) : size_(size), memory_(new T[size > 0 ? size : 1]()) {}
  T* data() { return memory_.get(); }
  T& operator[](int64_t i) { return memory_[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  std::unique_ptr<T[]> memory_;
};

// Reduces `scores` of the rows in float64, as ReduceGroup of the research engine does.
inline double ReduceRows(const double* scores, int rows, RowReduce reduce) {
  double result = scores[0];
  for (int r = 1; r < rows; ++r) {
    if (reduce == RowReduce::kMax) {
      result = std::isnan(result) || result > scores[r] ? result : scores[r];
    } else {
      result += scores[r];
    }
  }
  return reduce == RowReduce::kMean ? result / rows : result;
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_SCORE_TESTING_H_
