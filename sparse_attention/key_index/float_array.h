// FloatArray: float32 numbers on the host with their shape, row-major: weights without LibTorch.
#ifndef SPARSE_ATTENTION_KEY_INDEX_FLOAT_ARRAY_H_
#define SPARSE_ATTENTION_KEY_INDEX_FLOAT_ARRAY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sparse_attention {

struct FloatArray {
  std::vector<int64_t> shape;
  std::vector<float> values;

  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t size(int64_t dimension) const { return shape[static_cast<size_t>(dimension)]; }
  bool empty() const { return values.empty(); }
  // "float32 [8, 5]"
  std::string Describe() const {
    return absl::StrCat("float32 [", absl::StrJoin(shape, ", "), "]");
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_FLOAT_ARRAY_H_
