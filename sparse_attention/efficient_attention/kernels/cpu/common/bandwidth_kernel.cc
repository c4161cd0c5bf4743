#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

SA_INLINE U32 LoadBits(const char* p) {
  U32 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

template <int level>
SA_INLINE uint64_t ReadAt(const ReadItem& item, int64_t bytes_ahead) {
  if (item.count <= 0 || item.row_bytes <= 0) return 0;
  const int64_t lines = item.row_bytes / 64;
  const int64_t rows_ahead = (bytes_ahead + item.row_bytes - 1) / item.row_bytes;
  constexpr int kVectors = 64 / static_cast<int>(sizeof(U32));
  U32 sum[kVectors] = {};
  uint64_t rest = 0;
  for (int64_t i = 0; i < item.count; ++i) {
    const char* row = item.view.Row(item.rows != nullptr ? item.rows[i] : i);
    const int64_t j = i + rows_ahead < item.count ? i + rows_ahead : item.count - 1;
    const char* ahead = item.view.Row(item.rows != nullptr ? item.rows[j] : j);
    for (int64_t line = 0; line < lines; ++line) {
      if constexpr (level == 1) PrefetchL1(ahead + line * 64);
      if constexpr (level == 2) PrefetchL2(ahead + line * 64);
      for (int v = 0; v < kVectors; ++v) {
        sum[v] += LoadBits(row + line * 64 + v * static_cast<int64_t>(sizeof(U32)));
      }
    }
    for (int64_t byte = lines * 64; byte < item.row_bytes; ++byte) {
      rest += static_cast<uint8_t>(row[byte]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int lane = 0; lane < kLanes; ++lane) rest += sum[v][lane];
  }
  return rest;
}

uint64_t Read(const ReadItem& item, ReadAhead ahead) {
  switch (ahead.level) {
    case 1:
      return ReadAt<1>(item, ahead.bytes);
    case 2:
      return ReadAt<2>(item, ahead.bytes);
    default:
      return ReadAt<0>(item, ahead.bytes);
  }
}

}  // namespace

ReadKernels MakeReadKernels() { return {Read}; }

}  // namespace sparse_attention::cpu::SA_ISA
