#include "sparse_attention/efficient_attention/kernels/cpu/select/levels.h"

namespace sparse_attention::cpu {
namespace {

// Whole lines of 64 bytes.
constexpr int64_t MaxWords(int64_t max_n) { return (max_n + 511) / 512 * 8; }

}  // namespace

LevelKernels LevelKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeLevelKernels()); }

int64_t LevelStream::ScratchBytes(int64_t max_n) {
  return 8 * MaxWords(max_n) * (2 + kMaxPlanes) + 4 * 256 * 4;
}

LevelStream::LevelStream(const LevelKernels& kernels, int64_t max_n, void* scratch)
    : kernels_(kernels) {
  uint64_t* const words = static_cast<uint64_t*>(scratch);
  state_.max_words = MaxWords(max_n);
  state_.above = words;
  state_.inside = words + state_.max_words;
  state_.planes = words + 2 * state_.max_words;
  state_.bins = reinterpret_cast<uint32_t*>(words + (2 + kMaxPlanes) * state_.max_words);
}

}  // namespace sparse_attention::cpu
