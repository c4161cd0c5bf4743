// How the scores of a few rows come to their lines. Only for kernel sources, like simd.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_LINES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_LINES_H_

#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu::SA_ISA {

SA_INLINE F32 LoadCount(const float* p, int count) {
  return count == kLanes ? Load(p) : LoadFirst(p, count);
}
SA_INLINE void StoreCount(F32 x, float* p, int count) {
  if (count == kLanes) {
    Store(x, p);
  } else {
    StoreFirst(x, p, count);
  }
}

// kFiniteMax: no score is NaN.
enum class Line { kNone, kFiniteMax, kMax, kSum };

template <Line kLine>
SA_INLINE F32 Combine(F32 a, F32 b) {
  if constexpr (kLine == Line::kSum) return a + b;
  if constexpr (kLine == Line::kFiniteMax) return Max(a, b);
#if defined(SA_AVX512)
  // The instruction's result is b where either is NaN.
  const __m512 x = reinterpret_cast<__m512>(a), y = reinterpret_cast<__m512>(b);
  return reinterpret_cast<F32>(
      _mm512_mask_mov_ps(_mm512_max_ps(x, y), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x));
#elif defined(SA_NEON)
  return Max(a, b);  // NaN where either is
#else
  return a != a ? a : (a > b ? a : b);
#endif
}

// The first `count` scores of kRows of the `rows` rows, from `row` on. `out` is the place of the
// first key in the first line: one that is reduced holds what earlier rows left there.
template <int kRows, Line kLine>
SA_INLINE void Emit(const F32* score, int row, int rows, RowReduce reduce, float* out,
                    int64_t out_stride, int count) {
  if constexpr (kLine == Line::kNone) {
    for (int r = 0; r < kRows; ++r) StoreCount(score[r], out + (row + r) * out_stride, count);
    return;
  }
  F32 all = {};
  if (row > 0) all = LoadCount(out, count);
  for (int r = 0; r < kRows; ++r) all = row + r == 0 ? score[r] : Combine<kLine>(all, score[r]);
  if (kLine == Line::kSum && reduce == RowReduce::kMean && row + kRows == rows) {
    all = all / Set(static_cast<float>(rows));
  }
  StoreCount(all, out, count);
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_ROW_LINES_H_
