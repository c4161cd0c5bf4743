// The kernels' instances, compiled apart: one file for each element type and dimension.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_RUN_CUH_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_RUN_CUH_

#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_item.cuh"

namespace sparse_attention::cuda {

struct DecodeShape {
  dim3 blocks;
  int warps = 0, shared_bytes = 0;
  int columns = 1;  // of 8 query rows
  bool sparse = false;
  bool overlap = false;  // with the end of the kernel before
};

template <typename T, int kDim>
cudaError_t RunDecode(const DecodeLaunch& launch, const DecodeShape& shape, cudaStream_t stream);

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_RUN_CUH_
