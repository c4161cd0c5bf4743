// Exact top-k of one row of 8-bit scores (numbers of agreeing bits, quantised scores) that are
// computed in blocks and never kept: LevelStream.
//
// Selected are the k fed entries with the highest scores; of equal scores the lowest index wins;
// where no more than k entries are fed, all of them.
//
// A sample tells which levels the k-th highest score can have. One pass writes a bitmap of the
// entries above those levels, one of the entries inside and, for the latter, a bitmap for each bit
// of the level; the threshold then follows bit by bit from counts over the bitmaps. Where the k-th
// score lies outside, the row is fed again: a pass counts every level, and one more selects.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_LEVELS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_LEVELS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

enum class LevelPass : int32_t {
  kNone,       // k = 0
  kWindow,     // levels [low, high] are told apart
  kHistogram,  // counts levels
};

struct LevelState {
  // Of the caller's memory.
  uint64_t* above = nullptr;   // bitmap: above the window
  uint64_t* inside = nullptr;  // bitmap: in the window
  uint64_t* planes = nullptr;  // bitmap p, max_words words each: bit p of score - low
  uint32_t* bins = nullptr;    // [4][256]
  int64_t max_words = 0;

  int64_t k = 0;
  LevelPass pass = LevelPass::kNone;
  int32_t low = 0, high = 0;  // the window, both included
  int32_t num_planes = 0;     // bits of high - low
  int64_t words = 0;          // of the bitmaps, written so far
};

struct LevelKernels {
  void (*begin)(LevelState* state, int64_t k, int64_t entries, const uint8_t* sample,
                int64_t sample_count);
  void (*feed)(LevelState* state, int64_t begin, const uint8_t* scores, int64_t count,
               const uint64_t* excluded);
  bool (*finish)(LevelState* state, uint64_t* selected);
  // A row in memory, from begin to finish.
  void (*select)(LevelState* state, const uint8_t* scores, int64_t n, int64_t k,
                 const uint64_t* excluded, uint64_t* selected);
};

LevelKernels LevelKernelsFor(Isa isa);

SA_DECLARE_ISAS(LevelKernels MakeLevelKernels())

// Reusable, one row after the other, as TopKStream.
class LevelStream {
 public:
  // The most levels that are told apart in one pass: 2^kMaxPlanes.
  static constexpr int32_t kMaxPlanes = 4;

  // Bytes that a stream of rows up to max_n entries needs: 0.75 a key and 4 KB.
  static int64_t ScratchBytes(int64_t max_n);

  // `scratch` [ScratchBytes(max_n)], 64-byte aligned, stays the stream's until the last call.
  LevelStream(const LevelKernels& kernels, int64_t max_n, void* scratch);

  // A new row, of which about `entries` will be fed and are not excluded. `sample`: scores of
  // entries drawn uniformly from those; without one (sample_count 0) the row is fed twice.
  void Begin(int64_t k, int64_t entries, const uint8_t* sample, int64_t sample_count) {
    kernels_.begin(&state_, k, entries, sample, sample_count);
  }

  // Entries [begin, begin + count) of the row; blocks ascend and do not overlap, what is not fed
  // takes no part. `excluded`: bitmap of the whole row of entries that take no part, or null.
  void Feed(int64_t begin, const uint8_t* scores, int64_t count, const uint64_t* excluded) {
    kernels_.feed(&state_, begin, scores, count, excluded);
  }

  // True: the selected bits are set in `selected`, a bitmap up to the last entry fed, which keeps
  // its other bits. False: `selected` is untouched, feed the same row again.
  [[nodiscard]] bool Finish(uint64_t* selected) { return kernels_.finish(&state_, selected); }

  // A row that lies in memory, from Begin to Finish: scores[n], of which those set in `excluded`
  // (bitmap or null) take no part. Sets the selected bits of `selected` [BitmapWords(n)].
  void Select(const uint8_t* scores, int64_t n, int64_t k, const uint64_t* excluded,
              uint64_t* selected) {
    kernels_.select(&state_, scores, n, k, excluded, selected);
  }

 private:
  LevelKernels kernels_;
  LevelState state_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_LEVELS_H_
