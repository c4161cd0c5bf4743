#include "sparse_attention/base/cuda_runtime.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace sparse_attention {
namespace {

absl::Status Load() {
  // Global, as if it had been linked: it registers the CUDA operators with LibTorch.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("LibTorch's CUDA library cannot be loaded: ", dlerror()));
  }
  if (!at::hasCUDA()) return absl::FailedPreconditionError("no CUDA device was found");
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadCuda() {
  static const absl::Status* const status = new absl::Status(Load());
  return *status;
}

}  // namespace sparse_attention
