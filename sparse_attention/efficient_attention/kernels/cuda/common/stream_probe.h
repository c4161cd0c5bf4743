// What a device reads in a second, and random contents for benchmarks.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_STREAM_PROBE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_STREAM_PROBE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sparse_attention::cuda {

// Reads `bytes`, a multiple of 16, once; `sink` is written only to keep the reads.
cudaError_t LaunchStreamRead(const void* data, int64_t bytes, uint32_t* sink, cudaStream_t stream);

// bf16 numbers of about a normal distribution, from `seed` alone.
cudaError_t LaunchFillNormal(uint16_t* data, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_COMMON_STREAM_PROBE_H_
