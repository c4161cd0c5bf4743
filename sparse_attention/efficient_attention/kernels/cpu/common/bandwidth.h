// What the memory of this machine gives: the ceilings that kernels are measured against, taken in
// the same run, since machines have moods.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_BANDWIDTH_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_BANDWIDTH_H_

#include <cstdint>
#include <span>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

namespace sparse_attention::cpu {

// Rows to be read and nothing done with them: those of `rows`, or without it the first `count`.
struct ReadItem {
  RowView view;
  int64_t row_bytes = 0;
  const uint32_t* rows = nullptr;  // [count]
  int64_t count = 0;
};

// Lines are asked for so many bytes before they are read, into a level of the cache; level 0: not
// at all.
struct ReadAhead {
  int64_t bytes = 0;
  int level = 0;
};

// Seconds until the workers have read every item once.
double SecondsToRead(Workers& workers, std::span<const ReadItem> items, ReadAhead ahead,
                     Isa isa = BestIsa());

// What reads them fastest, tried: SecondsToRead with it is the ceiling.
ReadAhead BestReadAhead(Workers& workers, std::span<const ReadItem> items, Isa isa = BestIsa());

// Writes back and drops the lines of [data, data + bytes) from all caches, so that they are read
// from memory next. False where the processor has no way to.
bool EvictFromCaches(const char* data, int64_t bytes);

int64_t BytesOf(std::span<const ReadItem> items);

// `bytes` from `data` on in one item a thread and part, many enough that threads end together.
// `items` is where they are put; returns the used part.
std::span<const ReadItem> StreamItems(const char* data, int64_t bytes, std::span<ReadItem> items);

// Of one item; returns something that depends on every byte.
struct ReadKernels {
  uint64_t (*read)(const ReadItem&, ReadAhead);
};
SA_DECLARE_ISAS(ReadKernels MakeReadKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_BANDWIDTH_H_
