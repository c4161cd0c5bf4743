#include "sparse_attention/safetensors/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/safetensors/safetensors_header.h"

namespace sparse_attention {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor data is used as it is stored");

constexpr uint64_t kMaxHeader = 100'000'000;

struct DtypeInfo {
  absl::string_view name;
  int bits;
};

// In the order of the enumerators.
constexpr DtypeInfo kDtypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64}};
static_assert(std::size(kDtypes) == static_cast<size_t>(SafetensorsDtype::kU64) + 1);

uint64_t LittleEndian64(const std::byte* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

absl::Status IoError(absl::string_view what) {
  const int error = errno;
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  return error == ENOENT || error == ENOTDIR ? absl::NotFoundError(message)
                                             : absl::InvalidArgumentError(message);
}

}  // namespace

absl::string_view DtypeName(SafetensorsDtype dtype) {
  return kDtypes[static_cast<size_t>(dtype)].name;
}

int DtypeBits(SafetensorsDtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bits; }

class SafetensorsFile::Bytes {
 public:
  explicit Bytes(std::string owned)
      : owned_(std::move(owned)),
        data_(reinterpret_cast<const std::byte*>(owned_.data())),
        size_(owned_.size()) {}
  // Takes over a mapping.
  Bytes(void* mapping, size_t size)
      : mapping_(mapping), data_(static_cast<const std::byte*>(mapping)), size_(size) {}
  ~Bytes() {
    if (mapping_ != nullptr) munmap(mapping_, size_);
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::string owned_;
  void* mapping_ = nullptr;
  const std::byte* data_;
  size_t size_;
};

SafetensorsFile::SafetensorsFile(std::shared_ptr<const Bytes> bytes) : bytes_(std::move(bytes)) {}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return IoError(absl::StrCat(path, ": cannot open"));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) {
    close(fd);
    return Annotate(FromBytes("").status(), path);
  }
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const absl::Status mapped =
      mapping == MAP_FAILED ? IoError(absl::StrCat(path, ": cannot map")) : absl::OkStatus();
  close(fd);
  SA_RETURN_IF_ERROR(mapped);
  absl::StatusOr<SafetensorsFile> file = Parse(std::make_shared<const Bytes>(mapping, size));
  if (!file.ok()) return Annotate(file.status(), path);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::FromBytes(std::string bytes) {
  return Parse(std::make_shared<const Bytes>(std::move(bytes)));
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(std::shared_ptr<const Bytes> bytes) {
  const uint64_t size = bytes->size();
  constexpr uint64_t kPrefix = sizeof(uint64_t);
  if (size < kPrefix) {
    return absl::InvalidArgumentError(
        absl::StrCat("a file must have at least the 8 bytes of the header length, got ", size));
  }
  const uint64_t header_size = LittleEndian64(bytes->data());
  if (header_size > kMaxHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length must be at most ", kMaxHeader, ", got ", header_size));
  }
  if (header_size > size - kPrefix) {
    return absl::InvalidArgumentError(absl::StrCat(
        "header of ", header_size, " bytes does not fit in a file of ", size, " bytes: truncated"));
  }
  SA_ASSIGN_OR_RETURN(SafetensorsHeader header,
                      ParseSafetensorsHeader(absl::string_view(
                          reinterpret_cast<const char*>(bytes->data()) + kPrefix, header_size)));
  SA_RETURN_IF_ERROR(SortAndCheckLayout(header, size - kPrefix - header_size));

  SafetensorsFile file(std::move(bytes));
  file.metadata_ = std::move(header.metadata);
  const std::byte* data = file.bytes_->data() + kPrefix + header_size;
  file.tensors_.reserve(header.tensors.size());
  for (SafetensorsHeader::Tensor& tensor : header.tensors) {
    file.tensors_.push_back({.name = std::move(tensor.name),
                             .dtype = tensor.dtype,
                             .shape = std::move(tensor.shape),
                             .data = data + tensor.begin,
                             .bytes = tensor.end - tensor.begin});
  }
  file.index_.reserve(file.tensors_.size());
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
  return file;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace sparse_attention
