#include "sparse_attention/base/torch_status.h"

#include <string>

#include "absl/strings/match.h"

namespace sparse_attention::internal_torch {

absl::Status FromCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    return absl::ResourceExhaustedError(e.what_without_backtrace());
  } catch (const c10::Error& e) {
    std::string message = e.what_without_backtrace();
    // The CPU allocator reports exhaustion as a plain error.
    if (absl::StrContains(message, "not enough memory") ||
        absl::StrContains(message, "can't allocate memory")) {
      return absl::ResourceExhaustedError(message);
    }
    return absl::InternalError(absl::StrCat("LibTorch: ", message));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  } catch (...) {
    return absl::InternalError("unknown exception");
  }
}

}  // namespace sparse_attention::internal_torch
