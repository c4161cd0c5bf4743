// The kernel of dense and sparse decode attention.
//
// A warp works on tiles of 16 keys by itself: rows are copied to its own ring in shared memory,
// `stages` tiles ahead, so that no barrier stands between a warp and its next tile. Keys are the
// rows of the product K q^T and dimensions those of V^T p, query heads the columns, padded to 8:
// the matrix instructions want 16 of the former and 8 of the latter.
//
// A warp that met a number that is not finite does the rows concerned again, key by key
// (AttendCarefully): a weight of zero times infinity would spoil them.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_KERNEL_CUH_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_KERNEL_CUH_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_combine.cuh"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_item.cuh"
#include "sparse_attention/efficient_attention/kernels/cuda/common/mma.cuh"

namespace sparse_attention::cuda {

constexpr uint32_t kFullWarp = 0xFFFFFFFFu;

template <typename T, int kDim, int kColumns, bool kSparse>
class DecodeWarp {
  static constexpr int kRows = 8 * kColumns;  // query rows
  static constexpr int kSteps = kDim / 16;    // of the dimension, in matrix products
  static constexpr int kChunks = kDim / 8;    // of 16 bytes in a row
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kTileBytes = kTile * kRowBytes;
  static constexpr int kAhead = kSparse ? 4 : 1;  // tiles that a list is read before its rows

 public:
  __device__ __forceinline__ DecodeWarp(const DecodeLaunch& launch, const Item& item,
                                        uint32_t memory, int stage_bytes)
      : launch_(launch),
        item_(item),
        rows_(launch.p.cache, launch.p.table, item),
        memory_(memory),
        stage_bytes_(stage_bytes),
        lane_(static_cast<int>(threadIdx.x) & 31),
        weight_rows_(kSparse ? WeightRows(launch) : 0) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      max_[n][0] = max_[n][1] = -INFINITY;
      sum_[n][0] = sum_[n][1] = 0;
#pragma unroll
      for (int t = 0; t < kSteps; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[t][n][i] = 0;
      }
    }
  }

  // Asks for the first listed keys of tiles `first`, first + step, ...
  __device__ __forceinline__ void Begin(int first, int step) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) listed_[i] = ListedIn(first + i * step);
  }

  // Tiles below `end` of those that it began with.
  __device__ __forceinline__ void Attend(int first, int end, int step) {
    LoadQuery();
    int next = first, stage = 0;
    // One loop, the first rounds of which only copy: instructions have to be fetched as well.
#pragma unroll 1
    for (int tile = first - launch_.stages * step; tile < end; tile += step) {
      if (tile >= first) {
        WaitForOldest();
        __syncwarp();
        AttendTile(memory_ + stage * stage_bytes_, tile);
        __syncwarp();
      }
      Copy(stage, next, end, listed_[0]);
#pragma unroll
      for (int i = 0; i + 1 < kAhead; ++i) listed_[i] = listed_[i + 1];
      listed_[kAhead - 1] = ListedIn(next + kAhead * step);
      next += step;
      stage = stage + 1 == launch_.stages ? 0 : stage + 1;
    }
    WaitForCopies<0>();
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) {
          sum_[n][j] += __shfl_xor_sync(kFullWarp, sum_[n][j], mask);
        }
      }
    }
  }

  // Bit r: row r met a number that is not finite.
  __device__ __forceinline__ uint32_t RowsToRepeat() const {
    uint32_t rows = 0;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float probe = sum_[n][j] * 0.0f;
        if (max_[n][j] == INFINITY) probe = NAN;
#pragma unroll
        for (int t = 0; t < kSteps; ++t) {
          probe = fmaf(out_[t][n][j], 0.0f, fmaf(out_[t][n][j + 2], 0.0f, probe));
        }
        if (!(probe == 0)) rows |= 1u << Row(n, j);
      }
    }
    return __reduce_or_sync(kFullWarp, rows) & ((1u << item_.rows) - 1);
  }

  // sums [kRows], out [kRows, stride].
  __device__ __forceinline__ void Store(RowSum* sums, float* out, int stride) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int r = Row(n, j);
        if (lane_ < 4) sums[r] = {max_[n][j], sum_[n][j]};
#pragma unroll
        for (int t = 0; t < kSteps; ++t) {
          out[r * stride + 16 * t + lane_ / 4] = out_[t][n][j];
          out[r * stride + 16 * t + lane_ / 4 + 8] = out_[t][n][j + 2];
        }
      }
    }
  }

 private:
  // Of column block n this lane has these two rows in products' results.
  __device__ __forceinline__ int Row(int n, int j) const { return 8 * n + 2 * (lane_ % 4) + j; }

  __device__ __forceinline__ void LoadQuery() {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const int r = 8 * n + lane_ / 4;
      const T* q = nullptr;
      if (r < item_.rows) q = QueryRow<T>(launch_.p, item_, r);
#pragma unroll
      for (int t = 0; t < kSteps; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          query_[t][n][i] =
              q == nullptr
                  ? 0
                  : __ldg(reinterpret_cast<const uint32_t*>(q + 16 * t + 8 * i + 2 * (lane_ % 4)));
        }
      }
    }
  }

  // Lanes 16 apart look for the same key's row.
  __device__ __forceinline__ int PositionIn(int tile) const { return tile * kTile + lane_ % 16; }
  __device__ __forceinline__ uint32_t ListedIn(int tile) const {
    return kSparse ? item_.Listed(launch_.selection, PositionIn(tile)) : kNoKey;
  }

  __device__ __forceinline__ void Copy(int stage, int tile, int end, uint32_t listed) {
    if (tile < end) {
      const uint32_t to = memory_ + stage * stage_bytes_;
      const uint32_t slot = item_.Slot(launch_.p.table, item_.Key(PositionIn(tile), listed));
      // Offsets are even: the lowest bit says that there is nothing to be read.
      const int64_t offset = slot == kNoKey ? 1 : rows_.At(slot);
      constexpr int kLanesARow = kChunks < 32 ? kChunks : 32;
      constexpr int kRowsAtOnce = 32 / kLanesARow;
      const int chunk = lane_ % kLanesARow;
      const char* const k = static_cast<const char*>(launch_.p.cache.k) + 16 * chunk;
      const char* const v = static_cast<const char*>(launch_.p.cache.v) + 16 * chunk;
#pragma unroll
      for (int i = 0; i < kTile / kRowsAtOnce; ++i) {
        const int row = i * kRowsAtOnce + lane_ / kLanesARow;
        const int64_t from = __shfl_sync(kFullWarp, offset, row);
        const int bytes = from & 1 ? 0 : 16;
        const uint32_t place = to + row * kRowBytes + ((chunk ^ (row & 7)) << 4);
        CopyAsync16(place, k + (from & ~int64_t{1}), bytes);
        CopyAsync16(place + kTileBytes, v + (from & ~int64_t{1}), bytes);
      }
      CopyOfList(to + 2 * kTileBytes, tile, slot != kNoKey);
    }
    CommitCopies();  // a group for every tile, so that waiting can count them
  }

  __device__ __forceinline__ void CopyOfList(uint32_t to, int tile, bool valid) {
    const KeySelection& s = launch_.selection;
    uint32_t members = valid ? kAllRows : 0;
    if constexpr (!kSparse) {
      if (lane_ < 16) StoreShared(to + 4 * lane_, members);
      return;
    }
    const int i = PositionIn(tile);
    const bool listed = valid && i < item_.list_count;
    if (lane_ < 16) {
      if (listed && s.members != nullptr) members = __ldg(s.members + item_.list * s.stride + i);
      StoreShared(to + 4 * lane_, members);
    }
    for (int r = lane_ / 16; r < weight_rows_; r += 2) {
      const uint32_t place = to + 4 * (kTile * (1 + r) + lane_ % 16);
      if (listed) {
        CopyAsync4(place, s.inverse_probabilities + (item_.list * weight_rows_ + r) * s.stride + i);
      } else {
        StoreShared(place, __float_as_uint(1.0f));
      }
    }
  }

  __device__ __forceinline__ void WaitForOldest() const {
    switch (launch_.stages) {
      case 2:
        return WaitForCopies<1>();
      case 3:
        return WaitForCopies<2>();
      case 4:
        return WaitForCopies<3>();
      default:
        return WaitForCopies<5>();
    }
  }

  __device__ __forceinline__ void AttendTile(uint32_t tile, int index) {
    float x[kColumns][4];
    Products(tile, x);
    Restrict(tile + 2 * kTileBytes, index, x);
    Weigh(x);
    uint32_t high[kColumns][2], low[kColumns][2];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t rounded = Half<T>::Pack(x[n][2 * i], x[n][2 * i + 1]);
        const float2 back = Half<T>::Unpack(rounded);
        high[n][i] = Transpose(rounded);
        low[n][i] = Transpose(Half<T>::Pack(x[n][2 * i] - back.x, x[n][2 * i + 1] - back.y));
      }
    }
    // Matrices of V: keys 0 to 7 and two chunks of dimensions, then keys 8 to 15.
    const int key = lane_ % 8 + lane_ / 16 * 8;
    const uint32_t row = tile + kTileBytes + key * kRowBytes;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      uint32_t v[4];
      LoadTransposed(row + (((2 * t + lane_ / 8 % 2) ^ (key & 7)) << 4), v);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        Half<T>::MultiplyAdd(out_[t][n], v, high[n][0], high[n][1]);
        Half<T>::MultiplyAdd(out_[t][n], v, low[n][0], low[n][1]);
      }
    }
  }

  // x[n][i + 2 j]: key lane / 4 + 8 j, row Row(n, i).
  __device__ __forceinline__ void Products(uint32_t tile, float (&x)[kColumns][4]) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[n][i] = 0;
    }
    const int key = lane_ % 16;
    const uint32_t row = tile + key * kRowBytes;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      uint32_t k[4];
      LoadMatrices(row + (((2 * t + lane_ / 16) ^ (key & 7)) << 4), k);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        Half<T>::MultiplyAdd(x[n], k, query_[t][n][0], query_[t][n][1]);
      }
    }
    const float cap = launch_.p.softcap;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      if (cap > 0) {
        // In turn: four copies of tanh would be in the way of the instructions of the loop.
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
          const float capped = ScaledLogit(launch_, x[n][0]);
          x[n][0] = x[n][1], x[n][1] = x[n][2], x[n][2] = x[n][3], x[n][3] = capped;
        }
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[n][i] *= launch_.scale_log2;
      }
    }
  }

  // -infinity where a row does not attend, and weights of keys.
  __device__ __forceinline__ void Restrict(uint32_t list, int index,
                                           float (&x)[kColumns][4]) const {
    const int from = item_.local_begin + index * kTile;
    if (!kSparse && launch_.p.table.pages == nullptr && from >= item_.inner_begin &&
        from + kTile <= item_.inner_end) {
      return;
    }
    const bool bounds =
        !kSparse && (item_.begin != item_.inner_begin || item_.end != item_.inner_end);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int key = lane_ / 4 + 8 * j;
      const uint32_t members = LoadShared(list + 4 * key);
      float weight = 0;
      if (weight_rows_ == 1) weight = LogWeight(list, 0, key);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int r = Row(n, i);
          bool attends = members >> r & 1;
          if (bounds && r < item_.rows) {
            attends = attends && from + key >= item_.RowBegin(launch_.p, r) &&
                      from + key < item_.RowEnd(launch_.p, r);
          }
          if (weight_rows_ > 1) weight = r < weight_rows_ ? LogWeight(list, r, key) : 0;
          x[n][i + 2 * j] = attends ? x[n][i + 2 * j] + weight : -INFINITY;
        }
      }
    }
  }

  __device__ __forceinline__ static uint32_t LoadShared(uint32_t address) {
    uint32_t x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
  }
  __device__ __forceinline__ static void StoreShared(uint32_t address, uint32_t x) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
  }
  __device__ __forceinline__ static float LogWeight(uint32_t list, int r, int key) {
    return __log2f(__uint_as_float(LoadShared(list + 4 * (kTile * (1 + r) + key))));
  }

  // Logits become weights, and what came before is put in proportion.
  __device__ __forceinline__ void Weigh(float (&x)[kColumns][4]) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      float decay[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float most = fmaxf(x[n][i], x[n][i + 2]);
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) {
          most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, mask));
        }
        most = fmaxf(most, max_[n][i]);
        const float base = most == -INFINITY ? 0 : most;
        decay[i] = Exp2(max_[n][i] - base);
        max_[n][i] = most;
        x[n][i] = Exp2(x[n][i] - base);
        x[n][i + 2] = Exp2(x[n][i + 2] - base);
        sum_[n][i] = fmaf(sum_[n][i], decay[i], x[n][i] + x[n][i + 2]);
      }
      if (__any_sync(kFullWarp, decay[0] != 1 || decay[1] != 1)) {
#pragma unroll
        for (int t = 0; t < kSteps; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out_[t][n][i] *= decay[i % 2];
        }
      }
    }
  }

  const DecodeLaunch& launch_;
  const Item& item_;
  const Rows rows_;
  const uint32_t memory_;
  const int stage_bytes_;
  const int lane_;
  const int weight_rows_;
  uint32_t listed_[kAhead];
  uint32_t query_[kSteps][kColumns][2];
  float out_[kSteps][kColumns][4];
  float max_[kColumns][2], sum_[kColumns][2];
};

template <int kDim, int kColumns>
constexpr int MaxThreads() {
  return kDim == 256 || kColumns == 2 ? 256 : 384;
}

// A block of threads does part blockIdx.x of an item's keys.
template <typename T, int kDim, int kColumns, bool kSparse>
__global__ void __launch_bounds__(MaxThreads<kDim, kColumns>(), 1)
    DecodeKernel(const __grid_constant__ DecodeLaunch launch) {
  extern __shared__ __align__(128) char memory[];
#if __CUDA_ARCH__ >= 900
  // Started while the kernel before was ending: only from here on is what it wrote there.
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  constexpr int kRows = 8 * kColumns;
  const int split = static_cast<int>(blockIdx.x);
  const Item item(launch, kSparse);
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  // Tiles are dealt out in turn.
  const int first = split * warps + warp, step = launch.splits * warps;

  BlockState<kDim, kRows> state(memory, warps);
  int splits = 1;
  {
    const int stage_bytes = StageBytes(kDim, kSparse ? WeightRows(launch) : 0);
    DecodeWarp<T, kDim, kColumns, kSparse> worker(
        launch, item, SharedAddress(memory) + warp * launch.stages * stage_bytes, stage_bytes);
    worker.Begin(first, step);
    const int tiles = CeilDiv(item.count, kTile);
    // Those that get any: a number of the sequence alone, so that its result is too.
    splits = min(launch.splits, max(CeilDiv(tiles, warps), 1));
    if (split >= splits) return;
    worker.Attend(first, tiles, step);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    uint32_t repeat = worker.RowsToRepeat();
    __syncthreads();  // the rings' memory is free
    worker.Store(state.sums(warp), state.out(warp), state.kStride);
    __syncwarp();
    for (; repeat != 0; repeat &= repeat - 1) {
      const int r = __ffs(static_cast<int>(repeat)) - 1;
      AttendCarefully<T, kDim, kSparse>(launch, r, first, tiles, step, state.sums(warp)[r],
                                        state.out(warp) + r * state.kStride);
    }
  }
  __syncthreads();
  const Partials<kDim, kRows> partials(launch.p.workspace, launch.splits);
  state.ForEachRow(item.rows, [&](int r, int c, MergedRow& row) {
    const int quad = (r * kDim + c) / 4;
    if (split < splits - 1) return partials.Store(split, quad, row);
    partials.AddTo(row, splits - 1, quad);
    Finish<T>(launch.p, item, r, c, row);
  });
}

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_KERNEL_CUH_
