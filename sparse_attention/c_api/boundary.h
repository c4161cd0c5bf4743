// What every function of the C API does at its boundary: no exception gets out, a Status becomes a
// code and a text, structs are read by the size that the caller knows, pointers and sizes are
// checked.
#ifndef SPARSE_ATTENTION_C_API_BOUNDARY_H_
#define SPARSE_ATTENTION_C_API_BOUNDARY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/c_api/sparse_attention.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"

namespace sparse_attention::c_api {

// Keeps the text for sah_last_error and gives the code.
sah_status Report(const absl::Status& status) noexcept;

// Calls body() -> absl::Status.
template <typename Body>
sah_status Guarded(const Body& body) noexcept {
  try {
    return Report(body());
  } catch (const std::bad_alloc&) {
    return Report(absl::ResourceExhaustedError("no memory"));
  } catch (const std::length_error&) {
    return Report(absl::ResourceExhaustedError("no memory: larger than any memory"));
  } catch (const std::system_error& error) {
    return Report(absl::ResourceExhaustedError(error.what()));
  } catch (const std::exception& error) {
    return Report(absl::InternalError(error.what()));
  } catch (...) {
    return Report(absl::InternalError("unknown exception"));
  }
}

// Where a value stands, put together only for a message: checks of a step allocate nothing.
class Path {
 public:
  template <typename... Parts>
  Path(const Parts&... parts) : parts_{absl::string_view(parts)...} {}  // NOLINT: as a string
  Path At(int64_t index) const {
    Path path = *this;
    path.index_ = index;
    return path;
  }
  std::string Text() const {
    std::string text = absl::StrCat(parts_[0], parts_[1], parts_[2], parts_[3]);
    if (index_ >= 0) absl::StrAppend(&text, "[", index_, "]");
    return text;
  }

 private:
  absl::string_view parts_[4];
  int64_t index_ = -1;
};

// "must not be NULL", or not where its type may lie.
template <typename T>
absl::Status CheckPointer(const T* pointer, const Path& path) {
  if (pointer == nullptr) return RuleError(path.Text(), "must not be NULL", "NULL");
  if (reinterpret_cast<uintptr_t>(pointer) % alignof(T) != 0) {
    return RuleError(path.Text(), absl::StrCat("must be aligned to ", alignof(T), " bytes"),
                     absl::StrCat("an address that is ",
                                  reinterpret_cast<uintptr_t>(pointer) % alignof(T), " beyond"));
  }
  return absl::OkStatus();
}
template <typename T>
absl::Status CheckOptional(const T* pointer, const Path& path) {
  return pointer == nullptr ? absl::OkStatus() : CheckPointer(pointer, path);
}

// An address of elements.
absl::Status CheckElements(const void* pointer, cpu::Element element, const Path& path);

// low <= value <= high.
absl::Status CheckInteger(int64_t value, int64_t low, int64_t high, const Path& path);

// A stride in bytes: a multiple of the element's size, at least `least`.
absl::Status CheckStride(int64_t stride, cpu::Element element, int64_t least, const Path& path);

// The last byte of an array of (steps, stride) can be named by an address.
absl::Status CheckSpan(std::initializer_list<std::pair<int64_t, int64_t>> steps, const Path& path);

// Finite, and not negative.
absl::Status CheckFactor(float value, const Path& path);
float ScaleOr(float scale, int64_t dim);

absl::StatusOr<cpu::Element> ElementOf(int32_t dtype, const Path& path);

// Null: the default.
absl::StatusOr<cpu::Isa> IsaOf(const char* name);

// A caller's struct as this library knows it: a shorter one is of an earlier header, members that
// it lacks are 0; a longer one is of a later header, and what is not known here must be 0.
template <typename T>
absl::StatusOr<T> ReadStruct(const T* given, absl::string_view path) {
  static_assert(std::is_trivially_copyable_v<T>);
  SA_RETURN_IF_ERROR(CheckPointer(given, path));
  size_t size;
  std::memcpy(&size, given, sizeof(size));
  constexpr size_t kMost = 4096;
  // No struct has become longer yet.
  if (size < sizeof(T) || size > kMost) {
    return RuleError(absl::StrCat(path, ".struct_size"), absl::StrCat("must be ", sizeof(T)),
                     absl::StrCat(size));
  }
  const char* const bytes = reinterpret_cast<const char*>(given);
  if (std::any_of(bytes + sizeof(T), bytes + size, [](char byte) { return byte != 0; })) {
    return absl::UnimplementedError(
        absl::StrCat(path, " uses members that this version of the library does not know"));
  }
  T result;
  std::memcpy(&result, given, sizeof(T));
  return result;
}

// For structs that the library fills: the size that the caller set is kept.
template <typename T>
absl::Status WriteStruct(T values, T* given, absl::string_view path) {
  SA_ASSIGN_OR_RETURN(const T old, ReadStruct(given, path));
  values.struct_size = old.struct_size;
  std::memcpy(given, &values, sizeof(T));
  return absl::OkStatus();
}

// Pages of a pool. `page_size` 0: no pages.
struct Paging {
  int64_t page_size = 0, pages = 0;

  bool paged() const { return page_size != 0; }
  int64_t PagesOf(int64_t keys) const { return keys / page_size + (keys % page_size != 0); }
  int32_t shift() const;
};
absl::Status CheckPaging(const Paging& paging, const char* path);
// The entries that `keys` keys need are pages of the pool.
absl::Status CheckTable(const int32_t* table, int64_t keys, const Paging& paging, const Path& path);

}  // namespace sparse_attention::c_api

#endif  // SPARSE_ATTENTION_C_API_BOUNDARY_H_
