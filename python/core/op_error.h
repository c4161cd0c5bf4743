// Status to the exceptions that operators throw; PyTorch makes Python's of them: ValueError,
// NotImplementedError, RuntimeError.
#ifndef PYTHON_CORE_OP_ERROR_H_
#define PYTHON_CORE_OP_ERROR_H_

#include <c10/util/Exception.h>

#include <string>

#include "absl/status/status.h"

namespace sparse_attention {

inline void ThrowOpError(const absl::Status& status) {
  if (status.ok()) return;
  const std::string message(status.message());
  TORCH_CHECK_VALUE(status.code() != absl::StatusCode::kInvalidArgument, message);
  TORCH_CHECK_NOT_IMPLEMENTED(status.code() != absl::StatusCode::kUnimplemented, message);
  TORCH_CHECK(false, message);
}

}  // namespace sparse_attention

#endif  // PYTHON_CORE_OP_ERROR_H_
