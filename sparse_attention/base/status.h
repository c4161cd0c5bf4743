// Status helpers: macros that propagate errors, a path prefix for messages, and CHECK for our own
// invariants.
//
// Errors that a user can cause travel as absl::Status with a message that names the place, the rule
// and the value seen. SA_CHECK is for invariants that only a defect of this library can break; it
// ends the process.
#ifndef SPARSE_ATTENTION_BASE_STATUS_H_
#define SPARSE_ATTENTION_BASE_STATUS_H_

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

// The same code with `prefix` and ": " before the message; OK stays OK. Each layer adds its own
// part of the path, so that a leaf message reads "pipeline.maskers[2]: oracle_top_k.heavy_size must
// be > 0, got 0".
absl::Status Annotate(const absl::Status& status, absl::string_view prefix);

namespace internal_status {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what);
  std::abort();
}
inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}
}  // namespace internal_status
}  // namespace sparse_attention

#define SA_STATUS_CONCAT_INNER_(a, b) a##b
#define SA_STATUS_CONCAT_(a, b) SA_STATUS_CONCAT_INNER_(a, b)

#define SA_RETURN_IF_ERROR(expression)                              \
  do {                                                              \
    if (absl::Status sa_status_ = (expression); !sa_status_.ok()) { \
      return sa_status_;                                            \
    }                                                               \
  } while (false)

// SA_ASSIGN_OR_RETURN(const Mask mask, Mask::FromDense(t));
#define SA_ASSIGN_OR_RETURN(lhs, expression) \
  SA_ASSIGN_OR_RETURN_(SA_STATUS_CONCAT_(sa_status_or_, __LINE__), lhs, expression)
#define SA_ASSIGN_OR_RETURN_(temporary, lhs, expression)     \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return std::move(temporary).status(); \
  lhs = *std::move(temporary)

#define SA_CHECK(condition)                                                             \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      ::sparse_attention::internal_status::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                                                   \
  } while (false)

#define SA_CHECK_OK(expression)                                                           \
  do {                                                                                    \
    const auto& sa_checked_ = (expression);                                               \
    if (!sa_checked_.ok()) {                                                              \
      ::sparse_attention::internal_status::CheckFailed(                                   \
          __FILE__, __LINE__,                                                             \
          ::sparse_attention::internal_status::ToStatus(sa_checked_).ToString().c_str()); \
    }                                                                                     \
  } while (false)

#endif  // SPARSE_ATTENTION_BASE_STATUS_H_
