#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

#include <algorithm>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Room for the scores inside a bracket. A sample of 1,024 leaves at most about 11 % of the entries
// there (k of one half, 3.5 standard deviations on both sides).
constexpr int64_t CapacityFor(int64_t max_n) { return std::max<int64_t>(4096, max_n / 8); }

constexpr int64_t BitmapBytes(int64_t bits) { return RoundUp((bits + 63) / 64 * 8); }
constexpr int64_t ChosenBytes(int64_t capacity) { return RoundUp((capacity + 128) / 64 * 8 + 16); }

}  // namespace

TopKKernels TopKKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeTopKKernels()); }

int64_t TopKStream::ScratchBytes(int64_t max_n) {
  const int64_t capacity = CapacityFor(max_n);
  return 2 * BitmapBytes(max_n) + ChosenBytes(capacity) + RoundUp((capacity + 128) * 4);
}

TopKStream::TopKStream(const TopKKernels& kernels, int64_t max_n, void* scratch)
    : kernels_(kernels) {
  char* at = static_cast<char*>(scratch);
  state_.capacity = CapacityFor(max_n);
  state_.above = reinterpret_cast<uint64_t*>(at);
  at += BitmapBytes(max_n);
  state_.inside = reinterpret_cast<uint64_t*>(at);
  at += BitmapBytes(max_n);
  state_.chosen = reinterpret_cast<uint64_t*>(at);
  at += ChosenBytes(state_.capacity);
  state_.values = reinterpret_cast<float*>(at);
  state_.bins = reinterpret_cast<uint32_t*>(at);
}

}  // namespace sparse_attention::cpu
