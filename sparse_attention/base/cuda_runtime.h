// LibTorch's CUDA half, loaded when it is first asked for: programs start without it and run on
// machines that have none.
#ifndef SPARSE_ATTENTION_BASE_CUDA_RUNTIME_H_
#define SPARSE_ATTENTION_BASE_CUDA_RUNTIME_H_

#include "sparse_attention/base/status.h"

namespace sparse_attention {

// OK once CUDA tensors can be made in this process. Thread-safe; loading happens once and takes
// about a second. FailedPrecondition: the library or a device is missing; the message says which.
absl::Status LoadCuda();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_CUDA_RUNTIME_H_
