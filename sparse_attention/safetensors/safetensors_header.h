// The JSON header of a safetensors file, read event by event, so that nothing in it can make the
// reader recurse or allocate beyond a small multiple of the header's length. Parsing checks form
// and types, SortAndCheckLayout sizes and offsets.
#ifndef SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_HEADER_H_
#define SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/safetensors/safetensors.h"

namespace sparse_attention {

struct SafetensorsHeader {
  struct Tensor {
    std::string name;
    SafetensorsDtype dtype = SafetensorsDtype::kF32;
    std::vector<int64_t> shape;  // no negative dimension
    uint64_t begin = 0;          // offsets in the data, not checked
    uint64_t end = 0;
  };
  std::vector<Tensor> tensors;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

// InvalidArgument names the tensor and the rule, here and below.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json);

// Sorts the tensors by offset, then name, and checks that each has the size that its shape and
// dtype need and that together they tile [0, data_bytes) exactly.
absl::Status SortAndCheckLayout(SafetensorsHeader& header, uint64_t data_bytes);

// `tensor "a"`, escaped and shortened, as messages begin.
std::string TensorLabel(absl::string_view name);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_HEADER_H_
