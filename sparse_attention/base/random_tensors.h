// Random numbers and tensors for tests that replay: all of them come from one Philox stream, so a
// test that names its seed on failure can be run again on any machine.
#ifndef SPARSE_ATTENTION_BASE_RANDOM_TENSORS_H_
#define SPARSE_ATTENTION_BASE_RANDOM_TENSORS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "sparse_attention/base/philox.h"

namespace sparse_attention {

class RandomTensors {
 public:
  explicit RandomTensors(uint64_t seed) : stream_(seed, RandomPurpose::kTest, 0, 0, 0) {}

  // Uniform in [low, high], both included; the range must be below 2^32.
  int64_t Integer(int64_t low, int64_t high);
  // Uniform in [low, high).
  double Real(double low, double high);
  bool Chance(double probability) { return stream_.Uniform() < probability; }
  template <typename T>
  T OneOf(const std::vector<T>& values) {
    return values[Integer(0, static_cast<int64_t>(values.size()) - 1)];
  }

  // On the host. Drawn in float32, then rounded to `type`.
  at::Tensor Normal(at::IntArrayRef shape, at::ScalarType type = at::kFloat, double stddev = 1);
  at::Tensor Uniform(at::IntArrayRef shape, double low = 0, double high = 1,
                     at::ScalarType type = at::kFloat);

  // Overwrites `count` entries of a contiguous tensor, drawn with replacement, with `value`: NaN or
  // infinity, usually.
  void Plant(at::Tensor& tensor, double value, int64_t count);

 private:
  PhiloxStream stream_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_RANDOM_TENSORS_H_
