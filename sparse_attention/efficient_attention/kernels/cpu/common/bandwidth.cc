#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sparse_attention::cpu {
namespace {

// Where results go, so that no read is in vain.
std::atomic<uint64_t> sink;

}  // namespace

double SecondsToRead(Workers& workers, std::span<const ReadItem> items, ReadAhead ahead, Isa isa) {
  const ReadKernels kernels = SA_CHOOSE_ISA(isa, MakeReadKernels());
  const auto start = std::chrono::steady_clock::now();
  workers.Run(static_cast<int64_t>(items.size()), [&](int64_t item, int) {
    sink.fetch_xor(kernels.read(items[static_cast<size_t>(item)], ahead),
                   std::memory_order_relaxed);
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

ReadAhead BestReadAhead(Workers& workers, std::span<const ReadItem> items, Isa isa) {
  std::vector<ReadAhead> candidates = {{}};
  for (int level : {1, 2}) {
    for (int64_t bytes : {2048, 4096, 6144, 8192, 12288}) candidates.push_back({bytes, level});
  }
  std::vector<double> least(candidates.size(), std::numeric_limits<double>::infinity());
  // In turns, so that a disturbance does not hit one alone.
  for (int round = 0; round < 5; ++round) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      least[i] = std::min(least[i], SecondsToRead(workers, items, candidates[i], isa));
    }
  }
  return candidates[static_cast<size_t>(std::min_element(least.begin(), least.end()) -
                                        least.begin())];
}

bool EvictFromCaches(const char* data, int64_t bytes) {
#if defined(__x86_64__)
  for (int64_t line = 0; line < bytes; line += 64) _mm_clflush(data + line);
  _mm_mfence();
  return true;
#elif defined(__aarch64__)
  for (int64_t line = 0; line < bytes; line += 64) {
    asm volatile("dc civac, %0" : : "r"(data + line) : "memory");
  }
  asm volatile("dsb sy" : : : "memory");
  return true;
#else
  return bytes == 0 || data == nullptr;
#endif
}

int64_t BytesOf(std::span<const ReadItem> items) {
  int64_t bytes = 0;
  for (const ReadItem& item : items) bytes += item.count * item.row_bytes;
  return bytes;
}

std::span<const ReadItem> StreamItems(const char* data, int64_t bytes, std::span<ReadItem> items) {
  constexpr int64_t kRow = 4096;
  const int64_t rows = bytes / kRow, parts = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = rows * i / parts, end = rows * (i + 1) / parts;
    items[static_cast<size_t>(i)] = {.view = {.base = data + begin * kRow, .row_stride = kRow},
                                     .row_bytes = kRow,
                                     .count = end - begin};
  }
  return items;
}

}  // namespace sparse_attention::cpu
