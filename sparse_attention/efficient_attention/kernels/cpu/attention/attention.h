// Attention of a few query rows over the keys of one sequence and KV head.
//
// The rows are the query heads that share the KV head (for several queries: heads times queries).
// A pipeline is a chain of segments (a range, a list of selected keys, a list of sampled ones) that
// all add to one RunningState, which `finish` turns into the output and its log-sum-exp. Each key
// and value row is read once, whatever the number of rows; only listed rows are read.
//
// Logits are x = softcap(scale q.k) + bias, softmax and sums are fp32. Products q.k of bf16 are
// taken in pairs by the instruction for it where there is one, otherwise elements are widened.
// The same calls give the same bits. Nothing is allocated; about 50 KB of stack is used at most.
//
// Edges, for each row by itself:
//   no key                 out is 0, lse -infinity
//   one key                its value row, rounded to the output's type; lse is its logit
//   logit +infinity        the mean of the value rows with that logit; lse +infinity
//   logit -infinity        the key has no effect
//   NaN in q, k or v of a key that the row attends to: NaN in what depends on it, in that row only
//   NaN or infinity in other rows' keys, and in rows that are not listed: no effect, even where a
//   row of memory is read because another query row attends to it
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_H_

#include <cstdint>
#include <limits>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"

namespace sparse_attention::cpu {

constexpr int kMaxRows = 16;
constexpr int kMaxDim = 256;

struct AttentionProblem {
  Element element = Element::kFloat32;  // of q, k and v
  int32_t dim = 0, value_dim = 0;       // 1 to kMaxDim; the fast path takes multiples of 16
  int32_t rows = 0;                     // 1 to kMaxRows
  const void* q = nullptr;              // [rows, dim]
  int64_t q_stride = 0;                 // bytes from row to row
  RowView k, v;                         // rows of dim and of value_dim elements
  float scale = 1;
  float softcap = 0;  // softcap * tanh(x / softcap); 0: none
};

// The softmax so far, not normalised: max[r] is the largest logit, sum[r] the sum of
// exp(x - max[r]), out[r] that of exp(x - max[r]) v.
struct RunningState {
  float* max = nullptr;    // [rows]; -infinity: no key yet, then the others have no meaning
  float* sum = nullptr;    // [rows]
  float* out = nullptr;    // [rows, value_dim]
  int64_t out_stride = 0;  // floats from row to row
};

// A state without keys.
inline void InitState(int rows, int value_dim, const RunningState& state) {
  for (int r = 0; r < rows; ++r) {
    state.max[r] = -std::numeric_limits<float>::infinity();
    state.sum[r] = 0;
    for (int i = 0; i < value_dim; ++i) state.out[r * state.out_stride + i] = 0;
  }
}

// Which keys, and for which rows. A key listed twice counts twice. Keys of a page that stand side
// by side in the list are read side by side: pages need no list of their own.
struct KeyList {
  const uint32_t* keys = nullptr;  // [count], ascending (for speed)
  int64_t count = 0;
  const uint16_t* members = nullptr;  // [count], bit r: row r attends to it; null: every row does
  const float* bias = nullptr;        // [rows, count] added to the logits; null: none
  int64_t bias_stride = 0;            // floats from row to row
  float row_bias[kMaxRows] = {};      // added to every logit of the row; finite
};

struct AttentionKernels {
  // Keys [begin, end). Row r attends to [row_begin[r], row_end[r]) of them; either null: no bound.
  void (*attend_range)(const AttentionProblem&, int64_t begin, int64_t end,
                       const int64_t* row_begin, const int64_t* row_end, const RunningState&);
  void (*attend_list)(const AttentionProblem&, const KeyList&, const RunningState&);
  // With logits that logits_range or logits_list gave: only values are read. `logits` is
  // [rows, count], logits_stride floats from row to row; biases are added as in attend_list.
  void (*attend_scored_list)(const AttentionProblem&, const KeyList&, const float* logits,
                             int64_t logits_stride, const RunningState&);

  // softcap(scale q.k) of every row and key, out [rows, end - begin] or [rows, count], out_stride
  // floats from row to row. Only keys are read.
  void (*logits_range)(const AttentionProblem&, int64_t begin, int64_t end, float* out,
                       int64_t out_stride);
  void (*logits_list)(const AttentionProblem&, const uint32_t* keys, int64_t count, float* out,
                      int64_t out_stride);

  // Adds `from` to `into`; associative and commutative up to rounding, a state without keys is the
  // identity.
  void (*merge)(int rows, int value_dim, const RunningState& from, const RunningState& into);

  // out [rows, value_dim] of `element`, out_stride bytes from row to row; lse [rows] or null.
  // sinks [rows]: exp(sinks[r]) joins the denominator only (and lse); null: none.
  void (*finish)(int rows, int value_dim, const RunningState&, const float* sinks, Element element,
                 void* out, int64_t out_stride, float* lse);
};

const AttentionKernels& AttentionKernelsFor(Isa isa);

SA_DECLARE_ISAS(AttentionKernels MakeAttentionKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_H_
