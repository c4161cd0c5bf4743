// Exact top-k of one row of scores that are computed in blocks and never kept: TopKStream.
//
// Selected are the k fed entries with the highest scores; of equal scores the lowest index wins;
// NaN counts as +infinity, -infinity as the lowest finite number, -0 as 0; where no more than k
// entries are fed, all of them.
//
// A sample of the row brackets the k-th highest score. One pass then writes two bitmaps, entries
// above the bracket and entries inside, and keeps the scores of the latter, a few percent of the
// row, among which the threshold is found. Where the bracket misses, or more scores lie inside than
// there is room for, the row is fed again: passes that count by the bits of the scores narrow the
// bracket until it does, so any row is selected exactly, after at most 5 further passes.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// What a pass over the row does.
enum class TopKPass : int32_t {
  kNone,       // k = 0
  kAll,        // no more than k entries are expected: takes every one
  kCapture,    // keeps the scores inside the bracket
  kTies,       // the bracket is one value: who has it
  kHistogram,  // counts scores in 2,048 bins of the bracket
};

// The state of a stream. Scores are handled as integers of the same order ("keys of order"), NaN
// being the highest.
struct TopKState {
  // Of the caller's memory.
  uint64_t* above = nullptr;   // bitmap: higher than the bracket
  uint64_t* inside = nullptr;  // bitmap: in the bracket
  uint64_t* chosen = nullptr;  // bitmap over `values`
  float* values = nullptr;     // [capacity + 128], those inside in the order of their indices
  uint32_t* bins = nullptr;    // [2048], the memory of `values`
  int64_t capacity = 0;

  int64_t k = 0;
  TopKPass pass = TopKPass::kNone;
  int32_t low = 0, high = 0;  // the bracket, keys of order, both included
  int32_t shift = 0;          // of a bin
  bool overflow = false;
  int64_t words = 0;        // of the bitmaps, written so far
  int64_t above_count = 0;  // entries above the bracket
  int64_t inside_count = 0;
};

struct TopKKernels {
  void (*begin)(TopKState* state, int64_t k, int64_t entries, const float* sample,
                int64_t sample_count);
  void (*feed)(TopKState* state, int64_t begin, const float* scores, int64_t count,
               const uint64_t* excluded);
  void (*feed_u16)(TopKState* state, int64_t begin, const uint16_t* scores, int64_t count,
                   const uint64_t* excluded);
  bool (*finish)(TopKState* state, uint64_t* selected);
  // A row in memory, from begin to finish.
  void (*select)(TopKState* state, const float* scores, int64_t n, int64_t k,
                 const uint64_t* excluded, uint64_t* selected);
  void (*select_u16)(TopKState* state, const uint16_t* scores, int64_t n, int64_t k,
                     const uint64_t* excluded, uint64_t* selected);
};

TopKKernels TopKKernelsFor(Isa isa);

SA_DECLARE_ISAS(TopKKernels MakeTopKKernels())

// Reusable, one row after the other:
//   stream.Begin(k, entries, sample, sample_count);
//   do {
//     for (each block) stream.Feed(begin, scores, count, excluded);
//   } while (!stream.Finish(selected));
class TopKStream {
 public:
  // Bytes that a stream of rows up to max_n entries needs, about 0.75 a key.
  static int64_t ScratchBytes(int64_t max_n);

  // `scratch` [ScratchBytes(max_n)], 64-byte aligned, stays the stream's until the last call.
  TopKStream(const TopKKernels& kernels, int64_t max_n, void* scratch);

  // A new row, of which `entries` will be fed and are not excluded (an estimate is enough).
  // `sample`: scores of entries drawn uniformly from those; 1,024 are about best, of 0 the row must
  // be short (ScratchBytes) or be fed several times.
  void Begin(int64_t k, int64_t entries, const float* sample, int64_t sample_count) {
    kernels_.begin(&state_, k, entries, sample, sample_count);
  }

  // Entries [begin, begin + count) of the row; blocks ascend and do not overlap, what is not fed
  // takes no part. `excluded`: bitmap of the whole row of entries that take no part, or null.
  void Feed(int64_t begin, const float* scores, int64_t count, const uint64_t* excluded) {
    kernels_.feed(&state_, begin, scores, count, excluded);
  }
  void Feed(int64_t begin, const uint16_t* scores, int64_t count, const uint64_t* excluded) {
    kernels_.feed_u16(&state_, begin, scores, count, excluded);
  }

  // True: the selected bits are set in `selected`, a bitmap up to the last entry fed, which keeps
  // its other bits. False: `selected` is untouched, feed the same row again.
  [[nodiscard]] bool Finish(uint64_t* selected) { return kernels_.finish(&state_, selected); }

  // A row that lies in memory, from Begin to Finish: scores[n], of which those set in `excluded`
  // (bitmap or null) take no part. Sets the selected bits of `selected` [BitmapWords(n)].
  void Select(const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
              uint64_t* selected) {
    kernels_.select(&state_, scores, n, k, excluded, selected);
  }
  void Select(const uint16_t* scores, int64_t n, int64_t k, const uint64_t* excluded,
              uint64_t* selected) {
    kernels_.select_u16(&state_, scores, n, k, excluded, selected);
  }

  // Whether the row in hand is selected without looking at its scores.
  bool takes_all() const { return state_.pass == TopKPass::kAll; }

 private:
  TopKKernels kernels_;
  TopKState state_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_K_H_
