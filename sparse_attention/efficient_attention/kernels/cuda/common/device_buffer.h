// Memory of a CUDA device, for tests and benchmarks: an error of the runtime ends the program.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_DEVICE_BUFFER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_DEVICE_BUFFER_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace sparse_attention::cuda {

inline void OrDie(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

inline bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t size) : size_(size) {
    if (size > 0) OrDie(cudaMalloc(&data_, bytes()), "cudaMalloc");
  }
  explicit DeviceBuffer(const std::vector<T>& host)
      : DeviceBuffer(static_cast<int64_t>(host.size())) {
    if (size_ > 0) OrDie(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyDefault), "cudaMemcpy");
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

  T* get() const { return static_cast<T*>(data_); }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }
  std::vector<T> ToHost() const {
    std::vector<T> host(static_cast<size_t>(size_));
    if (size_ > 0) OrDie(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDefault), "cudaMemcpy");
    return host;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_DEVICE_BUFFER_H_
