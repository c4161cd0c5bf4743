// Status to Python exceptions: a function bound to Python unwraps with ValueOrThrow, and module.cc
// translates what it throws, so that no GIL is needed at the place of the error.
//
// InvalidArgument and OutOfRange become ValueError, Unimplemented NotImplementedError, NotFound
// _core.NotFoundError (a KeyError whose text is the message), everything else RuntimeError.
#ifndef PYTHON_CORE_STATUS_ERROR_H_
#define PYTHON_CORE_STATUS_ERROR_H_

#include <exception>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {

class StatusError : public std::exception {
 public:
  explicit StatusError(absl::Status status)
      : status_(std::move(status)), message_(status_.message()) {}
  const absl::Status& status() const { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  absl::Status status_;
  std::string message_;
};

inline void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) throw StatusError(status);
}

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  ThrowIfError(value.status());
  return *std::move(value);
}

// The value of `body()`, a StatusOr; LibTorch's exceptions become errors like any other.
template <typename Body>
auto Unwrapped(const Body& body) {
  return ValueOrThrow(CatchTorch(body));
}

}  // namespace sparse_attention

#endif  // PYTHON_CORE_STATUS_ERROR_H_
