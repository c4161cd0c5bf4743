// One decoding step of one layer on the CPU: what goes in, and what comes out.
//
// Everything here is plain pointers, so that an engine that embeds the kernels needs neither
// LibTorch nor this project's config. Strides are in bytes; the elements of a row lie side by side.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_STEP_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_STEP_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"

namespace sparse_attention::cpu {

constexpr int kMostGroup = 16;  // query heads that share a KV head

// What stays the same from step to step.
struct LayerShape {
  Element element = Element::kBFloat16;
  int32_t dim = 0;
  int32_t value_dim = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int64_t layer = 0;

  int32_t group() const { return query_heads / kv_heads; }
};

// The keys and values of one sequence in one layer, where they lie.
struct SequenceKv {
  RowView k;  // rows of KV head 0
  RowView v;
  int64_t k_head_stride = 0;  // to the same row of the next KV head
  int64_t v_head_stride = 0;
  int64_t begin = 0;   // keys before it are padding: never visible
  int64_t length = 0;  // keys, those of the step's own queries included

  RowView Keys(int64_t kv_head) const { return Moved(k, kv_head * k_head_stride); }
  RowView Values(int64_t kv_head) const { return Moved(v, kv_head * v_head_stride); }

 private:
  static RowView Moved(RowView view, int64_t bytes) {
    view.base += bytes;
    return view;
  }
};

// Query i of a sequence has the position length - queries + i and sees the keys up to it, but for
// padding and what lies before the sliding window.
struct StepInputs {
  const char* q = nullptr;  // [sequences, query heads, queries, dim]
  int64_t q_sequence_stride = 0;
  int64_t q_head_stride = 0;
  int64_t q_query_stride = 0;
  int64_t queries = 1;  // of every sequence, >= 1
  std::span<const SequenceKv> sequences;

  float scale = 1;
  float softcap = 0;                   // 0: none
  int64_t sliding_window = 0;          // 0: none
  const float* sink_logits = nullptr;  // [query heads], or null

  const SequenceKv& kv(int64_t sequence) const { return sequences[static_cast<size_t>(sequence)]; }
  int64_t PositionOf(int64_t sequence, int64_t query) const {
    return kv(sequence).length - queries + query;
  }
  // The first key that the query at a position sees.
  int64_t FirstVisible(int64_t sequence, int64_t position) const {
    const int64_t begin = kv(sequence).begin;
    return sliding_window == 0 ? begin : std::max(begin, position - sliding_window + 1);
  }
};

struct StepOutputs {
  char* out = nullptr;  // [sequences, query heads, queries, value dim], elements of the keys' type
  int64_t sequence_stride = 0;
  int64_t head_stride = 0;
  int64_t query_stride = 0;
  // Natural log of the sum of exponentials, float32 [sequences, query heads, queries], or null.
  float* lse = nullptr;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_STEP_H_
