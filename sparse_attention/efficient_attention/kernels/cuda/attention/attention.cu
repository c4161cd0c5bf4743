#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_item.cuh"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_run.cuh"

namespace sparse_attention::cuda {
namespace {

using cpu::Element;

struct Device {
  int multiprocessors = 0, shared_bytes = 0, major = 0;
};

cudaError_t ThisDevice(Device& device) {
  int id = 0;
  cudaError_t error = cudaGetDevice(&id);
  const auto get = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, id);
  };
  get(device.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(device.major, cudaDevAttrComputeCapabilityMajor);
  return error;
}

bool Aligned(const void* p, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

bool IsValid(const CacheView& view) {
  return view.k != nullptr && view.v != nullptr && Aligned(view.k, 16) && Aligned(view.v, 16) &&
         (view.batch_stride | view.page_stride | view.head_stride | view.row_stride) % 16 == 0;
}
bool IsEven(const HeadStrides& strides) {
  return (strides.batch | strides.query | strides.head) % 2 == 0;
}

bool IsValid(const DecodeParams& p) {
  return (p.element == Element::kFloat16 || p.element == Element::kBFloat16) &&
         (p.dim == 64 || p.dim == 128 || p.dim == 256) && p.batch >= 0 && p.kv_heads > 0 &&
         p.group > 0 && p.group <= kMaxGroup && p.queries > 0 && p.capacity >= 0 && p.window >= 0 &&
         p.splits >= 0 && p.splits <= kMaxSplits && p.table.page_shift >= 0 &&
         p.table.page_shift < 31 && p.q != nullptr && p.out != nullptr && Aligned(p.q, 4) &&
         Aligned(p.out, 4) && IsEven(p.q_strides) && IsEven(p.out_strides) && IsValid(p.cache);
}

bool IsValid(const DecodeParams& p, const KeySelection& s) {
  return s.sink >= 0 && s.local >= 0 && s.stride >= 0 &&
         s.stride <= std::numeric_limits<int32_t>::max() / 4 &&
         (s.keys == nullptr) == (s.counts == nullptr) &&
         (s.keys != nullptr || (s.members == nullptr && s.inverse_probabilities == nullptr)) &&
         p.capacity <= std::numeric_limits<int32_t>::max() / 4;
}

// The positions that an item has at most.
int64_t MostKeys(const DecodeParams& p, const KeySelection* s, int queries) {
  int64_t seen = p.capacity;
  if (p.window > 0) seen = std::min<int64_t>(seen, int64_t{p.window} + queries - 1);
  if (s == nullptr) return seen;
  return std::min<int64_t>(seen, int64_t{s->sink} + s->local) +
         (s->keys != nullptr ? s->stride : 0);
}

constexpr int64_t kMostGrid = 65535;  // in a dimension

// Where the number of parts is not given, there are no more of them in all.
constexpr int64_t kMostBlocks = 2048;

// As many parts as keep every multiprocessor at work, in as few rounds as may be.
int ChooseSplits(int64_t items, int64_t tiles, int multiprocessors) {
  constexpr double kOverhead = 16;  // of a block, in tiles: about 4 us
  int best = 1;
  double least = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= kMaxSplits; ++splits) {
    if (splits > 1 && items * splits > kMostBlocks) break;
    const int64_t rounds = (items * splits + multiprocessors - 1) / multiprocessors;
    const double cost =
        static_cast<double>(rounds) * (static_cast<double>(tiles) / splits + kOverhead);
    if (cost < least) least = cost, best = splits;
  }
  return best;
}

// Warps of a block, a multiple of 4, and the most tiles that each has on its way.
struct Warps {
  int count = 8, most_stages = 6;
};

// `tiles`: of a block. Measured on an H200 at dim 128.
Warps ChooseWarps(int dim, int columns, bool sparse, int64_t tiles) {
  if (dim == 256) return {4};
  if (columns > 1) return {8};
  if (!sparse || tiles > 64) return {12};
  return {8, dim == 128 && tiles <= 32 ? 2 : 6};
}

cudaError_t Launch(const DecodeParams& p, const KeySelection* selection, cudaStream_t stream) {
  if (!IsValid(p) || (selection != nullptr && !IsValid(p, *selection))) {
    return cudaErrorInvalidValue;
  }
  if (p.batch == 0) return cudaSuccess;
  Device device;
  if (const cudaError_t error = ThisDevice(device); error != cudaSuccess) return error;

  DecodeLaunch launch = {.p = p};
  DecodeShape shape = {.sparse = selection != nullptr};
  if (selection != nullptr) launch.selection = *selection;
  if (launch.selection.keys == nullptr) launch.selection.stride = 0;
  const int rows = shape.sparse ? p.group : p.group * p.queries;
  shape.columns = rows > 8 ? 2 : 1;
  launch.rows_per_block = std::min(rows, 8 * shape.columns);
  launch.row_blocks = shape.sparse ? p.queries : CeilDiv(rows, launch.rows_per_block);
  launch.scale_log2 = p.scale * kLog2E;
  launch.group_inverse = 0xFFFFFFFFu / static_cast<uint32_t>(p.group) + 1;

  const int64_t items = int64_t{p.batch} * p.kv_heads * launch.row_blocks;
  const int64_t tiles = (MostKeys(p, selection, shape.sparse ? 1 : p.queries) + kTile - 1) / kTile;
  launch.splits = p.splits > 0 ? p.splits : ChooseSplits(items, tiles, device.multiprocessors);
  const Warps warps = ChooseWarps(p.dim, shape.columns, shape.sparse, tiles / launch.splits);
  shape.warps = warps.count;
  if (p.batch > kMostGrid || int64_t{p.kv_heads} * launch.row_blocks > kMostGrid) {
    return cudaErrorInvalidValue;
  }
  shape.blocks =
      dim3(static_cast<unsigned>(launch.splits),
           static_cast<unsigned>(p.kv_heads * launch.row_blocks), static_cast<unsigned>(p.batch));
  if (launch.splits > 1) {
    const int64_t bytes = DecodeWorkspaceBytes(p);
    if (p.workspace == nullptr || !Aligned(p.workspace, 16) || p.workspace_bytes < bytes) {
      return cudaErrorInvalidValue;
    }
  }

  const int combine_bytes =
      8 * shape.columns * static_cast<int>(CombineStride(p.dim) * sizeof(float) + sizeof(RowSum));
  // As many tiles on their way as shared memory holds.
  const int stage_bytes = StageBytes(p.dim, WeightRows(launch));
  for (; shape.warps >= 4; shape.warps -= 4) {
    for (int stages : {6, 4, 3, 2}) {
      if (stages > warps.most_stages) continue;
      shape.shared_bytes =
          std::max(shape.warps * stages * stage_bytes, shape.warps * combine_bytes);
      if (shape.shared_bytes > device.shared_bytes) continue;
      launch.stages = stages;
      shape.overlap = device.major == 9;
      const bool half = p.element == Element::kFloat16;
      switch (p.dim) {
        case 64:
          return half ? RunDecode<__half, 64>(launch, shape, stream)
                      : RunDecode<__nv_bfloat16, 64>(launch, shape, stream);
        case 128:
          return half ? RunDecode<__half, 128>(launch, shape, stream)
                      : RunDecode<__nv_bfloat16, 128>(launch, shape, stream);
        default:
          return half ? RunDecode<__half, 256>(launch, shape, stream)
                      : RunDecode<__nv_bfloat16, 256>(launch, shape, stream);
      }
    }
  }
  return cudaErrorInvalidDevice;
}

}  // namespace

int64_t DecodeWorkspaceBytes(const DecodeParams& p) {
  const int64_t items = int64_t{p.batch} * p.kv_heads * p.queries;  // or fewer
  const int64_t parts = p.splits > 0 ? items * p.splits : std::min(items * kMaxSplits, kMostBlocks);
  const int rows = p.group * p.queries > 8 ? 16 : 8;
  return parts * rows * p.dim * 6;  // Partials, decode_combine.cuh
}

cudaError_t LaunchDenseDecode(const DecodeParams& params, cudaStream_t stream) {
  return Launch(params, nullptr, stream);
}

cudaError_t LaunchSparseDecode(const SparseDecodeParams& params, cudaStream_t stream) {
  return Launch(params.attention, &params.selection, stream);
}

}  // namespace sparse_attention::cuda
