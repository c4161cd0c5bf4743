// Compiled for each element type SA_ELEMENT and dimension SA_DIM.
#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_kernel.cuh"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_run.cuh"

namespace sparse_attention::cuda {
namespace {

template <int kColumns, bool kSparse>
cudaError_t Run(const DecodeLaunch& launch, const DecodeShape& shape, cudaStream_t stream) {
  const auto kernel = DecodeKernel<SA_ELEMENT, SA_DIM, kColumns, kSparse>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.blocks;
  config.blockDim = dim3(static_cast<unsigned>(32 * shape.warps));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, launch);
}

}  // namespace

template <>
cudaError_t RunDecode<SA_ELEMENT, SA_DIM>(const DecodeLaunch& launch, const DecodeShape& shape,
                                          cudaStream_t stream) {
  if (shape.columns == 1) {
    return shape.sparse ? Run<1, true>(launch, shape, stream)
                        : Run<1, false>(launch, shape, stream);
  }
  return shape.sparse ? Run<2, true>(launch, shape, stream) : Run<2, false>(launch, shape, stream);
}

}  // namespace sparse_attention::cuda
