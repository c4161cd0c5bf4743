// Writes safetensors files, laid out as by the Rust reference: dtypes of later enumerators first,
// then by name, the header padded with spaces to a multiple of 8 bytes. For at most one metadata
// key (the reference's order of several is random) the bytes are the reference's.
//
// Errors: InvalidArgument naming the tensor where a name repeats, is "__metadata__" or not UTF-8, a
// dimension is negative, or `bytes` is not what shape and dtype need.
#ifndef SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_WRITER_H_
#define SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_WRITER_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sparse_attention/safetensors/safetensors.h"

namespace sparse_attention {

// The whole file as a string.
absl::StatusOr<std::string> SerializeSafetensors(
    std::vector<TensorView> tensors, const std::map<std::string, std::string>& metadata = {});

// Writes `path` through a temporary file beside it, so that a reader never maps a half-written
// file.
absl::Status WriteSafetensors(const std::string& path, std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_WRITER_H_
