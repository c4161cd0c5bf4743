// The true entries of a mask, row by row, and vector loops over them whose sums have a fixed order.
// Host only.
#ifndef SPARSE_ATTENTION_ATTENTION_SELECTED_KEYS_H_
#define SPARSE_ATTENTION_ATTENTION_SELECTED_KEYS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace sparse_attention {

struct SelectedKeys {
  std::vector<int64_t> ends;  // of each row, in `keys`
  std::vector<int32_t> keys;

  int64_t begin(int64_t row) const { return row == 0 ? 0 : ends[row - 1]; }
};

// Of a contiguous bool tensor [..., keys] on the host.
inline SelectedKeys ListSelectedKeys(const at::Tensor& mask) {
  const int64_t n = mask.size(-1), rows = n == 0 ? 0 : mask.numel() / n;
  const bool* data = mask.const_data_ptr<bool>();
  SelectedKeys selected;
  selected.ends.reserve(rows);
  for (int64_t row = 0; row < rows; ++row, data += n) {
    for (int64_t j = 0; j < n;) {
      uint64_t eight = 0;  // masks are mostly empty
      if (j + 8 <= n) {
        std::memcpy(&eight, data + j, 8);
        if (eight == 0) {
          j += 8;
          continue;
        }
      }
      if (data[j]) selected.keys.push_back(static_cast<int32_t>(j));
      ++j;
    }
    selected.ends.push_back(static_cast<int64_t>(selected.keys.size()));
  }
  return selected;
}

// q . k in float32. Sixteen partial sums fix the order of additions and let the loop run in
// vectors.
template <typename T>
inline __attribute__((always_inline)) float Product(const float* q, const T* k, int64_t dim) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += q[i + lane] * static_cast<float>(k[i + lane]);
    }
  }
  for (int64_t lane = 0; i < dim; ++i, ++lane) lanes[lane] += q[i] * static_cast<float>(k[i]);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_SELECTED_KEYS_H_
