// Which keys a block of threads attends to for which query rows, and where they are.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_ITEM_CUH_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_ITEM_CUH_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention.h"

namespace sparse_attention::cuda {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr int kTile = 16;  // keys that a warp works on at a time
constexpr uint32_t kNoKey = 0xFFFFFFFFu;
constexpr uint32_t kAllRows = 0xFFFFu;

// What a launch passes to the kernel. An item is a sequence, a KV head and up to 16 query rows: row
// r of row block i is query (i * rows_per_block + r) / group, head of the group the remainder. The
// grid is [batch, kv_heads * row_blocks, splits].
struct DecodeLaunch {
  DecodeParams p;
  KeySelection selection;
  int32_t rows_per_block = 0, row_blocks = 0;
  int32_t splits = 1;
  int32_t stages = 2;  // tiles of a warp in shared memory
  float scale_log2 = 0;
  uint32_t group_inverse = 0;  // 2^32 / group, rounded up
};

__host__ __device__ inline int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// The keys of an item by position: the list, then two ranges. (Where a list's elements are does not
// depend on what is yet to be read.)
struct Item {
  int32_t sequence, head;
  int32_t rows;                    // of this block
  int32_t first_row;               // of the block in the sequence
  int32_t length;                  // of the sequence
  int32_t begin, end;              // what any row of the block may see
  int32_t inner_begin, inner_end;  // what every row sees
  int32_t list_count, sink_count, local_begin;
  int32_t count;  // positions
  uint32_t group_inverse;
  int64_t list = 0;  // its index

  // Of this block of threads. Every kernel waits for what is here: no division that can be spared.
  __device__ __forceinline__ Item(const DecodeLaunch& launch, bool sparse) {
    const DecodeParams& p = launch.p;
    sequence = static_cast<int>(blockIdx.z);
    group_inverse = launch.group_inverse;
    length = p.lengths != nullptr ? min(max(p.lengths[sequence], 0), p.capacity) : p.capacity;
    head = static_cast<int>(blockIdx.y);
    int block = 0, first = 0, last = 0;
    rows = p.group;
    if (p.queries > 1) {
      block = head % launch.row_blocks;
      head /= launch.row_blocks;
      rows = min(launch.rows_per_block, p.queries * p.group - block * launch.rows_per_block);
    }
    first_row = block * launch.rows_per_block;
    if (p.queries > 1) {
      first = QueryOf(p, 0);
      last = QueryOf(p, rows - 1);
    }
    inner_end = End(p, first);
    end = End(p, last);
    begin = Begin(p, inner_end);
    inner_begin = Begin(p, end);
    list_count = sink_count = 0;
    local_begin = begin;
    if (sparse) {
      // One query: begin and end are its own.
      const KeySelection& s = launch.selection;
      list = (static_cast<int64_t>(sequence) * p.queries + first) * p.kv_heads + head;
      if (s.keys != nullptr) {
        list_count = static_cast<int>(min(static_cast<int64_t>(max(s.counts[list], 0)), s.stride));
      }
      const int sink_end = min(s.sink, end);
      sink_count = max(sink_end - begin, 0);
      local_begin = max(begin, max(sink_end, end - s.local));
    }
    count = list_count + sink_count + max(end - local_begin, 0);
  }

  __device__ __forceinline__ int QueryOf(const DecodeParams& p, int r) const {
    if (p.queries == 1) return 0;
    const int row = first_row + r;
    return p.group == 1 ? row : static_cast<int>(__umulhi(row, group_inverse));
  }
  // Of all query heads.
  __device__ __forceinline__ int QueryHead(const DecodeParams& p, int r) const {
    return head * p.group + first_row + r - QueryOf(p, r) * p.group;
  }

  // The keys that the query of a row sees.
  __device__ __forceinline__ int RowEnd(const DecodeParams& p, int r) const {
    return End(p, QueryOf(p, r));
  }
  __device__ __forceinline__ int RowBegin(const DecodeParams& p, int r) const {
    return Begin(p, RowEnd(p, r));
  }

  // What the list holds at a position, which may lie behind its end.
  __device__ __forceinline__ uint32_t Listed(const KeySelection& s, int position) const {
    uint32_t key = kNoKey;
    if (position < s.stride) {
      // Stays where it is written: before what the list's length is needed for.
      asm volatile("ld.global.nc.u32 %0, [%1];"
                   : "=r"(key)
                   : "l"(s.keys + list * s.stride + position));
    }
    return key;
  }
  // The key at a position, given what is listed there: kNoKey if it must not be read.
  __device__ __forceinline__ uint32_t Key(int position, uint32_t listed) const {
    if (position < list_count) {
      const bool visible =
          listed >= static_cast<uint32_t>(begin) && listed < static_cast<uint32_t>(max(end, 0));
      return visible ? listed : kNoKey;
    }
    if (position >= count) return kNoKey;
    const int i = position - list_count;
    return static_cast<uint32_t>(i < sink_count ? begin + i : local_begin + i - sink_count);
  }

  // The row of the cache that holds a key: the same number in a contiguous cache.
  __device__ __forceinline__ uint32_t Slot(const PageTable& table, uint32_t key) const {
    if (table.pages == nullptr || key == kNoKey) return key;
    const int32_t page = __ldg(table.pages + sequence * table.stride + (key >> table.page_shift));
    if (page < 0 || page >= table.num_pages) return kNoKey;
    return (static_cast<uint32_t>(page) << table.page_shift) |
           (key & ((1u << table.page_shift) - 1));
  }

 private:
  __device__ __forceinline__ int End(const DecodeParams& p, int query) const {
    return length - (p.queries - 1 - query);
  }
  __device__ __forceinline__ static int Begin(const DecodeParams& p, int end) {
    return p.window > 0 ? max(end - p.window, 0) : 0;
  }
};

// Where the rows of an item's keys and values are, from the bases of its sequence and head on.
struct Rows {
  int64_t begin, row_stride, page_stride;
  int32_t shift;

  __device__ __forceinline__ Rows(const CacheView& cache, const PageTable& table,
                                  const Item& item) {
    const bool paged = table.pages != nullptr;
    begin = item.head * cache.head_stride + (paged ? 0 : item.sequence * cache.batch_stride);
    row_stride = cache.row_stride;
    page_stride = paged ? cache.page_stride : 0;
    shift = paged ? table.page_shift : 31;
  }
  __device__ __forceinline__ int64_t At(uint32_t slot) const {
    const uint32_t in_page = slot & ((1u << shift) - 1);
    return begin + static_cast<int64_t>(slot >> shift) * page_stride +
           static_cast<int64_t>(in_page) * row_stride;
  }
};

// Inverse probabilities that a key of the list has.
__host__ __device__ inline int WeightRows(const DecodeLaunch& launch) {
  if (launch.selection.inverse_probabilities == nullptr) return 0;
  return launch.selection.head_weights ? launch.p.group : 1;
}

// Shared memory of a tile: K rows, V rows, then of each key the rows that attend to it and its
// inverse probabilities, [weight_rows, kTile].
__host__ __device__ inline int StageBytes(int dim, int weight_rows) {
  return 2 * kTile * 2 * dim + kTile * 4 * (1 + weight_rows);
}

// In floats, of rows that the warps of a block store: their stores meet all banks.
__host__ __device__ constexpr int CombineStride(int dim) { return dim + 4; }

// What is known of the softmax over some keys: the largest logit in units of log 2 (-infinity: no
// key), the sum of exponentials relative to it.
struct RowSum {
  float max, sum;
};

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_DECODE_ITEM_CUH_
