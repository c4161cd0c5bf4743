// The arithmetic of attention over a tile of 64 keys. Only for attention_kernel.cc.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

// Products are taken for a part of 16 keys at a time. Weights and sums of values are for a whole
// tile, so that what is done once a tile (maxima, bringing sums to memory) costs little a key, and
// the values of a tile still fit the first level of the cache.
constexpr int kPart = 16;
constexpr int kPartVectors = kPart / kLanes;
constexpr int kTile = 4 * kPart;
constexpr int kTileVectors = kTile / kLanes;
constexpr int kRowBlock = 4;  // rows that share one load of a key or value

// Rows are walked in chunks of two vectors. bf16 is widened without shuffles: the even elements by
// a shift, the odd ones by a mask, so that `a` and `b` hold every second element; for the other
// types they are halves. Sums over a row do not care, sums of rows are put in order at the end.
constexpr int kChunk = 2 * kLanes;
constexpr int kMaxChunks = kMaxDim / kChunk;
struct Chunk {
  F32 a, b;
};

SA_INLINE Chunk LoadChunk(const float* p) { return {Load(p), Load(p + kLanes)}; }
SA_INLINE Chunk LoadChunk(const Float16* p) { return {LoadFloats(p), LoadFloats(p + kLanes)}; }
SA_INLINE Chunk LoadChunk(const BFloat16* p) {
  U32 pairs;
  std::memcpy(&pairs, p, sizeof(pairs));
  return {reinterpret_cast<F32>(pairs << 16), reinterpret_cast<F32>(pairs & 0xFFFF0000u)};
}

// The first `count` elements, 0 behind them.
template <typename T>
SA_INLINE Chunk LoadChunkFirst(const T* p, int count) {
  T x[kChunk] = {};
#if defined(SA_AVX512)
  if constexpr (sizeof(T) == 2) {
    const __m512i bits = _mm512_maskz_loadu_epi16((1u << count) - 1u, p);  // count < 32
    std::memcpy(x, &bits, sizeof(x));
  } else {
    const uint32_t mask = (1u << count) - 1u;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + kLanes);
    return {reinterpret_cast<F32>(low), reinterpret_cast<F32>(high)};
  }
#else
  std::memcpy(x, p, sizeof(T) * static_cast<size_t>(count));
#endif
  return LoadChunk(x);
}

// A sum of rows in the order of its elements.
template <typename T>
SA_INLINE Chunk InOrder(Chunk x) {
  if constexpr (!std::is_same_v<T, BFloat16>) return x;
  I32 low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + (i % 2) * kLanes;
    high[i] = low[i] + kLanes / 2;
  }
  return {__builtin_shuffle(x.a, x.b, low), __builtin_shuffle(x.a, x.b, high)};
}

// What a chunk of q and a chunk of a key are for their product, and the product.
template <typename T>
struct Product {
  using Operand = Chunk;
  static SA_INLINE Operand Whole(const T* p) { return LoadChunk(p); }
  static SA_INLINE Operand First(const T* p, int count) { return LoadChunkFirst(p, count); }
  static SA_INLINE F32 Add(const Operand& x, const Operand& y, F32 sum) {
    return MulAdd(x.b, y.b, MulAdd(x.a, y.a, sum));
  }
};
#if defined(SA_AVX512_BF16)
template <>
struct Product<BFloat16> {
  using Operand = __m512i;
  static SA_INLINE Operand Whole(const BFloat16* p) { return _mm512_loadu_si512(p); }
  static SA_INLINE Operand First(const BFloat16* p, int count) {
    return _mm512_maskz_loadu_epi16((1u << count) - 1u, p);
  }
  static SA_INLINE F32 Add(const Operand& x, const Operand& y, F32 sum) {
    return reinterpret_cast<F32>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                  reinterpret_cast<__m512bh>(x),
                                                  reinterpret_cast<__m512bh>(y)));
  }
};
#endif

template <typename T>
struct Query {
  typename Product<T>::Operand rows[kMaxRows][kMaxChunks];
#if defined(SA_AVX512_BF16)
  // For DotPartOfFour: 16 elements of each of two rows side by side, [rows / 2, dim / 16].
  __m512i pairs[std::is_same_v<T, BFloat16> ? kMaxRows / 2 : 1][kMaxDim / 16];
#endif
};

template <typename T>
SA_INLINE void LoadQuery(const AttentionProblem& problem, Query<T>& query) {
  const int whole = problem.dim / kChunk, rest = problem.dim % kChunk;
  for (int r = 0; r < problem.rows; ++r) {
    const T* q =
        reinterpret_cast<const T*>(static_cast<const char*>(problem.q) + r * problem.q_stride);
    for (int c = 0; c < whole; ++c) query.rows[r][c] = Product<T>::Whole(q + c * kChunk);
    if (rest > 0) query.rows[r][whole] = Product<T>::First(q + whole * kChunk, rest);
#if defined(SA_AVX512_BF16)
    if constexpr (std::is_same_v<T, BFloat16>) {
      for (int c = 0; c < problem.dim / 16; ++c) {
        std::memcpy(reinterpret_cast<char*>(&query.pairs[r / 2][c]) + r % 2 * 32, q + c * 16, 32);
      }
    }
#endif
  }
}

// Lanes whose index has bit `step` hold what b's pairs of lanes `step` apart add up to, the others
// what a's do.
template <int step, int... i>
SA_INLINE F32 AddPairs(F32 a, F32 b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, ((i & step) ? kLanes + i : i)...) +
         __builtin_shufflevector(a, b, ((i & step) ? kLanes + (i ^ step) : (i ^ step))...);
}
// Lane i of the result is the sum over the lanes of x[i]; kLanes vectors.
template <int step = 1>
SA_INLINE F32 SumEach(const F32* x) {
#if defined(SA_NEON)
  return SumLanes4(x[0], x[1], x[2], x[3]);
#else
  if constexpr (step == kLanes) {
    return x[0];
  } else {
    F32 half[kLanes / step / 2];
    for (int i = 0; i < kLanes / step / 2; ++i) {
      half[i] = AddPairs<step>(x[2 * i], x[2 * i + 1], std::make_integer_sequence<int, kLanes>());
    }
    return SumEach<2 * step>(half);
  }
#endif
}

// Addresses of rows, for the tile at hand and the next, whose rows are asked for ahead.
struct Addresses {
  static constexpr int kTilesAhead = 1;
  static constexpr int kSize = 2 * kTile;  // a power of 2
  const char* rows[kSize];
  const char* at(int64_t i) const { return rows[i & (kSize - 1)]; }
};

// Which rows to ask for while a tile is worked on: those `distance` keys on.
struct Ahead {
  int64_t first = 0;  // the tile's own first key, plus distance
  int lines = 0;      // cache lines of a row; 0: ask for nothing
  bool near = false;  // into the first level of the cache (PrefersNearPrefetch, isa.h)
};

SA_INLINE void PrefetchRow(const char* row, int first_line, int last_line, bool near) {
  if (near) {
    for (int line = first_line; line < last_line; ++line) PrefetchL1(row + 64 * line);
  } else {
    for (int line = first_line; line < last_line; ++line) PrefetchL2(row + 64 * line);
  }
}
// Lines [kFirst, kFirst + kLines) of a row, and what it has beyond them where it is not aligned.
template <int kLines>
SA_INLINE void PrefetchLines(const char* row, int first_line, Ahead ahead, bool last) {
  if (ahead.lines == 0) return;
  if (ahead.near) {
    for (int line = 0; line < kLines; ++line) PrefetchL1(row + 64 * (first_line + line));
  } else {
    for (int line = 0; line < kLines; ++line) PrefetchL2(row + 64 * (first_line + line));
  }
  if (last) PrefetchRow(row, first_line + kLines, ahead.lines, ahead.near);
}

// x[r] = q[r] . k over a part of a tile, for kRows rows. kFixed: the number of chunks where it is
// known and the last is whole, or 0.
template <typename T, int kRows, int kFixed>
SA_INLINE void DotPart(const Query<T>& query, int first_row, int dim, const Addresses& keys,
                       int64_t first_key, Ahead ahead, F32 (*x)[kTileVectors], int part) {
  using P = Product<T>;
  // With q in registers a key at a time; otherwise each load of q serves several keys.
  constexpr size_t kMostHeld = kRegisters == 32 ? 16 * sizeof(F32) : 16 * 64;
  constexpr bool kHoldQuery =
      kFixed > 0 && sizeof(typename P::Operand) * kFixed * kRows <= kMostHeld;
  constexpr int kKeys = kHoldQuery ? 1 : kRegisters == 32 ? 4 : 2;
  const int whole = kFixed > 0 ? kFixed : dim / kChunk;
  const int rest = kFixed > 0 ? 0 : dim % kChunk;
  typename P::Operand held[kRows][kFixed > 0 ? kFixed : 1];
  if constexpr (kHoldQuery) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kFixed; ++c) held[r][c] = query.rows[first_row + r][c];
    }
  }
  F32 sums[kRows][kPart];
  for (int key = 0; key < kPart; key += kKeys) {
    const T* k[kKeys];
    F32 sum[kKeys][kRows] = {};
    for (int j = 0; j < kKeys; ++j) {
      k[j] = reinterpret_cast<const T*>(keys.at(first_key + key + j));
      const char* next = keys.at(ahead.first + key + j);
      if constexpr (kFixed > 0) {
        PrefetchLines<kFixed * kChunk* static_cast<int>(sizeof(T)) / 64>(next, 0, ahead, true);
      } else {
        PrefetchRow(next, 0, ahead.lines, ahead.near);
      }
    }
    for (int c = 0; c < whole; ++c) {
      typename P::Operand chunk[kKeys];
      for (int j = 0; j < kKeys; ++j) chunk[j] = P::Whole(k[j] + c * kChunk);
      for (int r = 0; r < kRows; ++r) {
        const typename P::Operand& q = kHoldQuery ? held[r][c] : query.rows[first_row + r][c];
        for (int j = 0; j < kKeys; ++j) sum[j][r] = P::Add(chunk[j], q, sum[j][r]);
      }
    }
    if (rest > 0) {
      for (int j = 0; j < kKeys; ++j) {
        const typename P::Operand chunk = P::First(k[j] + whole * kChunk, rest);
        for (int r = 0; r < kRows; ++r) {
          sum[j][r] = P::Add(chunk, query.rows[first_row + r][whole], sum[j][r]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kKeys; ++j) sums[r][key + j] = sum[j][r];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kPartVectors; ++i) {
      x[first_row + r][part * kPartVectors + i] = SumEach(sums[r] + i * kLanes);
    }
  }
}

#if defined(SA_AVX512_BF16)
// Lanes of each block of four: the sums over that block of a, b, c and d.
SA_INLINE __m512 SumBlocks(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
}
// Blocks: even ones of a, then of b, plus the odd ones behind each.
SA_INLINE __m512 SumBlockPairs(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}

// The same for four rows of bf16 and 16 * kSteps elements: two rows share a vector of sums, so that
// a key leaves two vectors to be added up in place of four.
template <int kSteps>
SA_INLINE void DotPartOfFour(const Query<BFloat16>& query, int first_row, const Addresses& keys,
                             int64_t first_key, Ahead ahead, F32 (*x)[kTileVectors], int part) {
  constexpr int kKeys = 4;  // sums enough to hide the latency of a product
  __m512bh q[2][kSteps];
  for (int pair = 0; pair < 2; ++pair) {
    for (int c = 0; c < kSteps; ++c) {
      q[pair][c] = reinterpret_cast<__m512bh>(query.pairs[first_row / 2 + pair][c]);
    }
  }
  __m512 four[2][kPart / kKeys];  // of four keys: two blocks for either row
  for (int key = 0; key < kPart; key += kKeys) {
    const __m256i* k[kKeys];
    __m512 sum[2][kKeys];
    for (int j = 0; j < kKeys; ++j) sum[0][j] = sum[1][j] = _mm512_setzero_ps();
#pragma GCC unroll 4  // as a loop it would bring the sums to memory
    for (int j = 0; j < kKeys; ++j) {
      k[j] = reinterpret_cast<const __m256i*>(keys.at(first_key + key + j));
      PrefetchLines<kSteps * 32 / 64>(keys.at(ahead.first + key + j), 0, ahead, true);
    }
    for (int c = 0; c < kSteps; ++c) {
      for (int j = 0; j < kKeys; ++j) {
        const __m512bh twice =
            reinterpret_cast<__m512bh>(_mm512_broadcast_i64x4(_mm256_loadu_si256(k[j] + c)));
        for (int pair = 0; pair < 2; ++pair) {
          sum[pair][j] = _mm512_dpbf16_ps(sum[pair][j], twice, q[pair][c]);
        }
      }
    }
    for (int pair = 0; pair < 2; ++pair) {
      four[pair][key / kKeys] = SumBlocks(sum[pair][0], sum[pair][1], sum[pair][2], sum[pair][3]);
    }
  }
  for (int pair = 0; pair < 2; ++pair) {
    const __m512 low = SumBlockPairs(four[pair][0], four[pair][1]);
    const __m512 high = SumBlockPairs(four[pair][2], four[pair][3]);
    const int row = first_row + 2 * pair;
    x[row][part] = reinterpret_cast<F32>(_mm512_shuffle_f32x4(low, high, 0x88));
    x[row + 1][part] = reinterpret_cast<F32>(_mm512_shuffle_f32x4(low, high, 0xDD));
  }
}
#endif

// out[r] = decay[r] out[r] + sum over the tile's first n keys of weight[r] v, for kRows rows and
// kChunks chunks from `chunk` on; `rest` > 0: the last of them has so many elements. `last`: no
// chunks follow.
template <typename T, int kRows, int kChunks>
SA_INLINE void AccumulateChunks(const Addresses& values, int64_t first_key, int n, Ahead ahead,
                                int chunk, int rest, bool last, const float (*weights)[kTile],
                                const float* decay, float (*out)[kMaxDim]) {
  // -0 is what adding to changes nothing: with one key, -0 stays -0.
  Chunk sum[kRows][kChunks];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kChunks; ++c) sum[r][c] = {Set(-0.0f), Set(-0.0f)};
  }
  constexpr int kBytes = kChunk * static_cast<int>(sizeof(T));
  for (int key = 0; key < n; ++key) {
    const T* v = reinterpret_cast<const T*>(values.at(first_key + key)) + chunk * kChunk;
    const char* next = values.at(ahead.first + key);
    if constexpr (kBytes % 64 == 0) {
      PrefetchLines<kChunks * kBytes / 64>(next, chunk * (kBytes / 64), ahead, last);
    } else {
      PrefetchRow(next, (chunk * kBytes + 63) / 64,
                  last ? ahead.lines : ((chunk + kChunks) * kBytes + 63) / 64, ahead.near);
    }
    F32 weight[kRows];
    for (int r = 0; r < kRows; ++r) weight[r] = Set(weights[r][key]);
    for (int c = 0; c < kChunks; ++c) {
      const Chunk x = c == kChunks - 1 && rest > 0 ? LoadChunkFirst(v + c * kChunk, rest)
                                                   : LoadChunk(v + c * kChunk);
      for (int r = 0; r < kRows; ++r) {
        sum[r][c].a = MulAdd(weight[r], x.a, sum[r][c].a);
        sum[r][c].b = MulAdd(weight[r], x.b, sum[r][c].b);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kChunks; ++c) {
      float* to = out[r] + (chunk + c) * kChunk;
      Store(MulAdd(Load(to), Set(decay[r]), sum[r][c].a), to);
      Store(MulAdd(Load(to + kLanes), Set(decay[r]), sum[r][c].b), to + kLanes);
    }
  }
}

template <typename T, int kRows>
SA_INLINE void AccumulateTile(const Addresses& values, int64_t first_key, int n, Ahead ahead,
                              int value_dim, const float (*weights)[kTile], const float* decay,
                              float (*out)[kMaxDim]) {
  // As many sums as half of the registers hold.
  constexpr int kVectors = kRegisters / 2;
  constexpr int kChunks = kVectors / 2 / (kRows == 3 ? 4 : kRows);
  const int whole = value_dim / kChunk, rest = value_dim % kChunk;
  int chunk = 0;
  for (; chunk + kChunks <= whole; chunk += kChunks) {
    const bool last = (chunk + kChunks) * kChunk >= value_dim;
    AccumulateChunks<T, kRows, kChunks>(values, first_key, n, ahead, chunk, 0, last, weights, decay,
                                        out);
  }
  for (; chunk < whole; ++chunk) {
    const bool last = (chunk + 1) * kChunk >= value_dim;
    AccumulateChunks<T, kRows, 1>(values, first_key, n, ahead, chunk, 0, last, weights, decay, out);
  }
  if (rest > 0) {
    AccumulateChunks<T, kRows, 1>(values, first_key, n, ahead, chunk, rest, true, weights, decay,
                                  out);
  }
}

// Relative error below 4 units in the last place: Cephes' polynomial below 0.625, e^2x above.
SA_INLINE F32 Tanh(F32 x) {
  const U32 sign = reinterpret_cast<U32>(x) & 0x80000000u;
  const F32 size = reinterpret_cast<F32>(reinterpret_cast<U32>(x) & 0x7FFFFFFFu);
  const F32 square = x * x;
  F32 p = Set(-5.70498872745e-3f);
  p = MulAdd(p, square, Set(2.06390887954e-2f));
  p = MulAdd(p, square, Set(-5.37397155531e-2f));
  p = MulAdd(p, square, Set(1.33314422036e-1f));
  p = MulAdd(p, square, Set(-3.33332819422e-1f));
  const F32 near = MulAdd(p * square, x, x);
  const F32 far = 1.0f - 2.0f / (Exp(size + size) + 1.0f);
  const F32 result = reinterpret_cast<F32>(reinterpret_cast<U32>(far) | sign);
  return size < 0.625f ? near : (x != x ? x : result);
}

}  // namespace
}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_
