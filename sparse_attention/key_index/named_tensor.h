// What an index holds, by name, for those who want to look into it.
#ifndef SPARSE_ATTENTION_KEY_INDEX_NAMED_TENSOR_H_
#define SPARSE_ATTENTION_KEY_INDEX_NAMED_TENSOR_H_

#include <ATen/core/Tensor.h>

#include <vector>

namespace sparse_attention {

struct NamedTensor {
  const char* name;
  at::Tensor tensor;  // shares the index's storage: for reading only
};

using NamedTensors = std::vector<NamedTensor>;

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_NAMED_TENSOR_H_
