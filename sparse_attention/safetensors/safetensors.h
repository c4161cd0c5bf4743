// Reads safetensors files: a strict, memory-mapped reader that needs no Torch.
//
// A file is a little-endian u64 header length, a JSON header, and the tensors' bytes. Accepted and
// refused are the same files as by the Rust reference (safetensors 0.8.0), with these deliberate
// exceptions, where the reader keeps to the format's own description or to what TensorView can hold
// and refuses more:
//   - a header that does not begin with '{' (the reference skips leading whitespace);
//   - a tensor name or a __metadata__ key given twice (the reference keeps the last one);
//   - a tensor described by an array instead of an object, a dtype given as {"U8": null} (accidents
//   of its JSON
//     library that no writer uses);
//   - a dimension of 2^63 or more beside a zero dimension (shapes here are int64_t).
// The header is at most 100,000,000 bytes. Offsets, sorted, must tile the data exactly: no hole, no
// overlap, no trailing byte. All arithmetic is checked. Errors are InvalidArgument (NotFound for a
// missing file) and name the file and the tensor.
#ifndef SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_H_
#define SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

// In the reference's order: writers put tensors of later types first.
enum class SafetensorsDtype {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

// The name in a header, such as "BF16".
absl::string_view DtypeName(SafetensorsDtype dtype);
// Bits of one element: 4, 6, 8, 16, 32 or 64.
int DtypeBits(SafetensorsDtype dtype);

// A tensor inside a file. `data` is borrowed from the file and may be unaligned: writers pad the
// header to 8 bytes, but a valid file need not.
struct TensorView {
  std::string name;
  SafetensorsDtype dtype = SafetensorsDtype::kF32;
  std::vector<int64_t> shape;       // row-major; empty for a scalar
  const std::byte* data = nullptr;  // [bytes]
  size_t bytes = 0;
};

// An open file. Views stay valid as long as it lives, also when it is moved. A file that another
// process shortens while it is mapped ends this one with SIGBUS; replace model files by renaming.
class SafetensorsFile {
 public:
  // Maps `path` read-only. Only the header is read; the pages of a tensor are loaded when touched.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  static absl::StatusOr<SafetensorsFile> FromBytes(std::string bytes);

  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;

  // In the order of their data; tensors without data that share an offset are in the order of their
  // names.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // Null if there is no such tensor.
  const TensorView* Find(absl::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  class Bytes;  // a mapping or a string; its address does not change
  explicit SafetensorsFile(std::shared_ptr<const Bytes> bytes);
  static absl::StatusOr<SafetensorsFile> Parse(std::shared_ptr<const Bytes> bytes);

  std::shared_ptr<const Bytes> bytes_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  absl::flat_hash_map<absl::string_view, size_t> index_;  // name -> position in tensors_
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_H_
