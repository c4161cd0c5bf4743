// The one place where LibTorch's exceptions become Status. Every public function that runs tensor
// operations wraps its body in CatchTorch, so that no exception leaves our code.
#ifndef SPARSE_ATTENTION_BASE_TORCH_STATUS_H_
#define SPARSE_ATTENTION_BASE_TORCH_STATUS_H_

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace internal_torch {
absl::Status FromCurrentException();
}  // namespace internal_torch

// Runs `body`, which returns Status or StatusOr<T>, and returns what it returns. A LibTorch error
// becomes Internal with LibTorch's first line, running out of memory becomes ResourceExhausted.
template <typename Body>
std::invoke_result_t<Body> CatchTorch(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return internal_torch::FromCurrentException();
  }
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_TORCH_STATUS_H_
