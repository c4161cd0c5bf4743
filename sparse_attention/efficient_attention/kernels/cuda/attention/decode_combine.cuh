// What warps, then blocks, found of the same rows becomes one; the last step writes the output.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_COMBINE_CUH_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_COMBINE_CUH_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cuda/attention/decode_item.cuh"
#include "sparse_attention/efficient_attention/kernels/cuda/common/mma.cuh"

namespace sparse_attention::cuda {

constexpr float kLn2 = 0.69314718055994530942f;

template <typename T>
__device__ __forceinline__ const T* QueryRow(const DecodeParams& p, const Item& item, int r) {
  return static_cast<const T*>(p.q) + item.sequence * p.q_strides.batch +
         item.QueryOf(p, r) * p.q_strides.query + item.QueryHead(p, r) * p.q_strides.head;
}

// From the product of a query and a key, in units of log 2.
__device__ __forceinline__ float ScaledLogit(const DecodeLaunch& launch, float x) {
  const float cap = launch.p.softcap;
  if (cap > 0) return tanhf(x * launch.p.scale / cap) * (cap * kLog2E);
  return x * launch.scale_log2;
}

// What sums relative to a maximum are worth relative to a greater one; infinite ones included.
__device__ __forceinline__ float WorthAt(float max, float most) {
  return max == most ? 1 : Exp2(max - most);
}

// Four elements of a row of the output, and the row's sum.
struct MergedRow {
  float max = -INFINITY, sum = 0;
  float out[4] = {};
  bool nan = false;

  template <int kCount>
  __device__ __forceinline__ void Add(const RowSum (&sums)[kCount], const float4 (&parts)[kCount]) {
    float most = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      most = fmaxf(most, sums[i].max);
      nan = nan || isnan(sums[i].max);
    }
    if (most == -INFINITY) return;
    Scale(WorthAt(max, most));
    max = most;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float worth = WorthAt(sums[i].max, most);
      if (!(worth > 0)) continue;  // also what an infinite maximum makes worthless, NaN or not
      sum = fmaf(worth, sums[i].sum, sum);
      out[0] = fmaf(worth, parts[i].x, out[0]);
      out[1] = fmaf(worth, parts[i].y, out[1]);
      out[2] = fmaf(worth, parts[i].z, out[2]);
      out[3] = fmaf(worth, parts[i].w, out[3]);
    }
  }

 private:
  __device__ __forceinline__ void Scale(float worth) {
    const bool none = worth == 0;
    sum = none ? 0 : sum * worth;
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = none ? 0 : out[i] * worth;
  }
};

// The output's elements [c, c + 4) of row r.
template <typename T>
__device__ __forceinline__ void Finish(const DecodeParams& p, const Item& item, int r, int c,
                                       const MergedRow& row) {
  const int query = item.QueryOf(p, r), head = item.QueryHead(p, r);
  const float sink = p.sinks != nullptr ? p.sinks[head] * kLog2E : -INFINITY;
  float lse = sink * kLn2, scale = 0;
  if (row.nan) {
    lse = scale = NAN;
  } else if (row.max != -INFINITY && !(sink == INFINITY && row.max < INFINITY)) {
    const float most = fmaxf(row.max, sink);
    const float worth = WorthAt(row.max, most);
    const float denominator = fmaf(row.sum, worth, p.sinks != nullptr ? WorthAt(sink, most) : 0);
    scale = worth / denominator;
    lse = (most + log2f(denominator)) * kLn2;
  }
  // No key or an infinite sink: 0, whatever the sums are.
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = scale == 0 ? 0 : row.out[i] * scale;
  T* out = static_cast<T*>(p.out) + item.sequence * p.out_strides.batch +
           query * p.out_strides.query + head * p.out_strides.head + c;
  uint32_t* const pairs = reinterpret_cast<uint32_t*>(out);
  pairs[0] = Half<T>::Pack(x[0], x[1]);
  pairs[1] = Half<T>::Pack(x[2], x[3]);
  if (p.lse != nullptr && c == 0) {
    const int64_t heads = static_cast<int64_t>(p.kv_heads) * p.group;
    p.lse[(static_cast<int64_t>(item.sequence) * p.queries + query) * heads + head] = lse;
  }
}

// What the warps of a block found, in shared memory.
template <int kDim, int kRows>
class BlockState {
 public:
  static constexpr int kStride = CombineStride(kDim);

  __device__ __forceinline__ BlockState(char* memory, int warps)
      : out_(reinterpret_cast<float*>(memory)),
        sums_(reinterpret_cast<RowSum*>(out_ + warps * kRows * kStride)),
        warps_(warps) {}
  __device__ __forceinline__ RowSum* sums(int warp) const { return sums_ + warp * kRows; }
  __device__ __forceinline__ float* out(int warp) const { return out_ + warp * kRows * kStride; }

  template <typename Use>
  __device__ __forceinline__ void ForEachRow(int rows, Use use) const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * (kDim / 4); i += blockDim.x) {
      const int r = i / (kDim / 4), c = i % (kDim / 4) * 4;
      MergedRow row;
      constexpr int kAtOnce = 4;  // warps are a multiple of it
#pragma unroll 1
      for (int w = 0; w < warps_; w += kAtOnce) {
        RowSum sums[kAtOnce];
        float4 parts[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          sums[j] = this->sums(w + j)[r];
          parts[j] = *reinterpret_cast<const float4*>(out(w + j) + r * kStride + c);
        }
        row.Add(sums, parts);
      }
      use(r, c, row);
    }
  }

 private:
  float* out_;    // [warps, kRows, kStride]
  RowSum* sums_;  // [warps, kRows]
  int warps_;
};

// What the blocks of an item found, in the workspace: of every item, part and four elements of a
// row a float4 [kQuads] and the row's sum [kQuads].
//
// Every word there says by itself whether it has been written: until then it is kEmpty, a NaN that
// nothing computes. The item's last block waits for the words of the others and leaves them empty
// for the next launch. So nobody waits for a fence or a counter, 1 us of a launch's 7. Blocks are
// started in order of their indices: those that a block waits for never wait for one after it.
template <int kDim, int kRows>
class Partials {
 public:
  static constexpr int kQuads = kRows * kDim / 4;
  static constexpr uint32_t kEmpty = 0xFFFFFFFFu;

  __device__ __forceinline__ Partials(void* workspace, int splits)
      : words_(static_cast<uint32_t*>(workspace) +
               static_cast<int64_t>(blockIdx.z * gridDim.y + blockIdx.y) * splits * 6 * kQuads) {}

  __device__ __forceinline__ void Store(int split, int quad, const MergedRow& row) const {
    uint32_t* const out = Out(split, quad);
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(out),
                 "r"(Word(row.out[0])), "r"(Word(row.out[1])), "r"(Word(row.out[2])),
                 "r"(Word(row.out[3]))
                 : "memory");
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(Sums(split, quad)),
                 "r"(Word(row.nan ? NAN : row.max)), "r"(Word(row.sum))
                 : "memory");
  }

  // Adds parts [0, count) to `row`, when they are there.
  __device__ __forceinline__ void AddTo(MergedRow& row, int count, int quad) const {
    constexpr int kAtOnce = 15;  // in flight
#pragma unroll 1
    for (int first = 0; first < count; first += kAtOnce) {
      uint4 out[kAtOnce];
      uint2 sums[kAtOnce];
      bool complete;
      do {
        complete = true;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int split = min(first + j, count - 1);
          asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(out[j].x), "=r"(out[j].y), "=r"(out[j].z), "=r"(out[j].w)
                       : "l"(Out(split, quad))
                       : "memory");
          asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                       : "=r"(sums[j].x), "=r"(sums[j].y)
                       : "l"(Sums(split, quad))
                       : "memory");
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          complete = complete && out[j].x != kEmpty && out[j].y != kEmpty && out[j].z != kEmpty &&
                     out[j].w != kEmpty && sums[j].x != kEmpty && sums[j].y != kEmpty;
        }
      } while (!complete);
      RowSum row_sums[kAtOnce];
      float4 parts[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const bool one = first + j < count;
        row_sums[j] = {one ? __uint_as_float(sums[j].x) : -INFINITY, __uint_as_float(sums[j].y)};
        parts[j] = {__uint_as_float(out[j].x), __uint_as_float(out[j].y), __uint_as_float(out[j].z),
                    __uint_as_float(out[j].w)};
        if (one) {
          *reinterpret_cast<uint4*>(Out(first + j, quad)) = {kEmpty, kEmpty, kEmpty, kEmpty};
          *reinterpret_cast<uint2*>(Sums(first + j, quad)) = {kEmpty, kEmpty};
        }
      }
      row.Add(row_sums, parts);
    }
  }

 private:
  __device__ __forceinline__ static uint32_t Word(float x) {
    const uint32_t word = __float_as_uint(x);
    return word == kEmpty ? 0x7FFFFFFFu : word;
  }
  __device__ __forceinline__ uint32_t* Out(int split, int quad) const {
    return words_ + static_cast<int64_t>(split) * 6 * kQuads + 4 * quad;
  }
  __device__ __forceinline__ uint32_t* Sums(int split, int quad) const {
    return words_ + static_cast<int64_t>(split) * 6 * kQuads + 4 * kQuads + 2 * quad;
  }

  uint32_t* words_;
};

// Row r over the tiles of a warp, key by key and only those that it attends to: correct whatever
// they hold. `out`: [kDim].
template <typename T, int kDim, bool kSparse>
__device__ __noinline__ void AttendCarefully(const DecodeLaunch& launch, int r, int first, int end,
                                             int step, RowSum& result, float* out) {
  constexpr int kEach = kDim / 32;  // elements that a lane has
  constexpr uint32_t kAllLanes = 0xFFFFFFFFu;
  const DecodeParams& p = launch.p;
  const KeySelection& s = launch.selection;
  const Item item(launch, kSparse);
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const Rows rows(p.cache, p.table, item);
  const int row_begin = item.RowBegin(p, r), row_end = item.RowEnd(p, r);
  const int weight_rows = kSparse ? WeightRows(launch) : 0;
  const auto load = [lane](const void* row, float(&x)[kEach]) {
    const uint32_t* const pairs = static_cast<const uint32_t*>(row) + lane * (kEach / 2);
#pragma unroll
    for (int i = 0; i < kEach / 2; ++i) {
      const float2 pair = Half<T>::Unpack(pairs[i]);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  };
  float q[kEach], sums[kEach] = {};
  load(QueryRow<T>(p, item, r), q);
  float max = -INFINITY, sum = 0;
#pragma unroll 1
  for (int i = first * kTile; i < end * kTile; ++i) {
    if (i % kTile == 0 && i > first * kTile) i += (step - 1) * kTile;
    if (i >= min(end * kTile, item.count)) break;
    const uint32_t key = item.Key(i, kSparse ? item.Listed(s, i) : kNoKey);
    const uint32_t slot = item.Slot(p.table, key);
    if (slot == kNoKey || static_cast<int>(key) < row_begin || static_cast<int>(key) >= row_end) {
      continue;
    }
    float weight = 1;
    if (kSparse && i < item.list_count) {
      if (s.members != nullptr && !(s.members[item.list * s.stride + i] >> r & 1)) continue;
      if (weight_rows > 0) {
        const int row = weight_rows > 1 ? r : 0;
        weight = s.inverse_probabilities[(item.list * weight_rows + row) * s.stride + i];
      }
    }
    float k[kEach], x = 0;
    load(static_cast<const char*>(p.cache.k) + rows.At(slot), k);
#pragma unroll
    for (int j = 0; j < kEach; ++j) x = fmaf(q[j], k[j], x);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
    x = ScaledLogit(launch, x) + __log2f(weight);
    if (x == -INFINITY || isnan(max) || (x < max && max == INFINITY)) continue;
    if (isnan(x)) {
      max = sum = NAN;
#pragma unroll
      for (int j = 0; j < kEach; ++j) sums[j] = NAN;
      continue;
    }
    // Infinity swallows the weight, which says how many keys this one stands for.
    float worth = x == INFINITY ? weight : 1;
    if (x > max) {
      // What an infinite logit makes worthless is forgotten, NaN or not.
      const bool forget = max == -INFINITY || x == INFINITY;
      const float decay = forget ? 0 : Exp2(max - x);
      max = x;
      sum = forget ? 0 : sum * decay;
#pragma unroll
      for (int j = 0; j < kEach; ++j) sums[j] = forget ? 0 : sums[j] * decay;
    } else if (x < max) {
      worth = Exp2(x - max);
    }
    sum += worth;
    float v[kEach];
    load(static_cast<const char*>(p.cache.v) + rows.At(slot), v);
#pragma unroll
    for (int j = 0; j < kEach; ++j) sums[j] = fmaf(worth, v[j], sums[j]);
  }
  if (lane == 0) result = {max, sum};
#pragma unroll
  for (int j = 0; j < kEach; ++j) out[lane * kEach + j] = sums[j];
}

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_COMBINE_CUH_
