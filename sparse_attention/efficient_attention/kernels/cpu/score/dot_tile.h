// Dot products of four index rows with a few query rows. Only for kernel sources, like simd.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_DOT_TILE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_DOT_TILE_H_

#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {

constexpr int kTileKeys = 4;
// Query rows whose sums fit the registers beside the keys.
constexpr int kTileRows = kRegisters / 8;

// How keys of type T meet float queries: by kStep elements.
template <typename T>
struct FloatDot {
  using Key = T;
  using Query = float;
  using Keys = F32;
  static constexpr int kStep = kLanes;
  static SA_INLINE F32 LoadKeys(const T* p) { return LoadFloats(p); }
  static SA_INLINE F32 LoadKeysFirst(const T* p, int count) { return LoadFirst(p, count); }
  static SA_INLINE F32 Add(F32 sum, F32 keys, const float* query) {
    return MulAdd(keys, Load(query), sum);
  }
  static SA_INLINE F32 AddFirst(F32 sum, F32 keys, const float* query, int count) {
    return MulAdd(keys, LoadFirst(query, count), sum);
  }
};

#if defined(SA_AVX512_BF16)
// Pairs of products in float32.
struct BFloat16Dot {
  using Key = BFloat16;
  using Query = BFloat16;
  using Keys = __m512i;
  static constexpr int kStep = 32;
  static SA_INLINE __m512i LoadKeys(const BFloat16* p) { return _mm512_loadu_si512(p); }
  static SA_INLINE __m512i LoadKeysFirst(const BFloat16* p, int count) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), p);
  }
  static SA_INLINE F32 Add(F32 sum, __m512i keys, const BFloat16* query) {
    return Products(sum, keys, _mm512_loadu_si512(query));
  }
  static SA_INLINE F32 AddFirst(F32 sum, __m512i keys, const BFloat16* query, int count) {
    return Products(sum, keys, LoadKeysFirst(query, count));
  }
  static SA_INLINE F32 Products(F32 sum, __m512i keys, __m512i query) {
    return reinterpret_cast<F32>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                  reinterpret_cast<__m512bh>(keys),
                                                  reinterpret_cast<__m512bh>(query)));
  }
};
#endif

// products[r] of four keys with query row r: rows of `length` elements. kAhead: asks for what lies
// so many bytes behind the keys, a line at a time, since a burst of requests would be dropped.
template <typename Dot, int kRows, int kAhead = 0>
SA_INLINE void DotTile(const typename Dot::Key* const* keys, const typename Dot::Query* queries,
                       int64_t query_stride, int length, F4* products) {
  F32 sum[kRows][kTileKeys] = {};
  int i = 0;
  for (; i + Dot::kStep <= length; i += Dot::kStep) {
    typename Dot::Keys x[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) {
      x[k] = Dot::LoadKeys(keys[k] + i);
      if (kAhead > 0) PrefetchL2(reinterpret_cast<const char*>(keys[k] + i) + kAhead);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int k = 0; k < kTileKeys; ++k) {
        sum[r][k] = Dot::Add(sum[r][k], x[k], queries + r * query_stride + i);
      }
    }
  }
  if (i < length) {
    for (int k = 0; k < kTileKeys; ++k) {
      const typename Dot::Keys x = Dot::LoadKeysFirst(keys[k] + i, length - i);
      for (int r = 0; r < kRows; ++r) {
        sum[r][k] = Dot::AddFirst(sum[r][k], x, queries + r * query_stride + i, length - i);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    products[r] = SumLanes4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
  }
}

// The same for any number of rows, products [rows].
template <typename Dot, int kAhead>
SA_INLINE void DotRows(const typename Dot::Key* const* keys, const typename Dot::Query* queries,
                       int64_t query_stride, int length, int rows, F4* products) {
  int r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    if (r == 0) {
      DotTile<Dot, kTileRows, kAhead>(keys, queries, query_stride, length, products);
    } else {
      DotTile<Dot, kTileRows>(keys, queries + r * query_stride, query_stride, length, products + r);
    }
  }
  if (kTileRows > 2 && r + 2 <= rows) {
    DotTile<Dot, 2>(keys, queries + r * query_stride, query_stride, length, products + r);
    r += 2;
  }
  if (r < rows) {
    DotTile<Dot, 1>(keys, queries + r * query_stride, query_stride, length, products + r);
  }
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_DOT_TILE_H_
