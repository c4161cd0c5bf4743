// Scores as integers of the same order, and the search for the r-th highest among them. Only for
// kernel sources, as simd.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_ORDER_INL_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_ORDER_INL_H_

#include <cstdint>
#include <cstring>

#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"

namespace sparse_attention::cpu::SA_ISA {

constexpr int32_t kLeastOrder = -0x7F7FFFFF - 1;  // of the lowest finite number and -infinity
constexpr int32_t kMostOrder = 0x7F800000;        // of infinity and NaN

// NaN as infinity, -infinity as the lowest finite number, -0 as 0.
SA_INLINE int32_t OrderOf(float score) {
  if (score != score) score = __builtin_inff();
  if (score < -__FLT_MAX__) score = -__FLT_MAX__;
  score += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
SA_INLINE I32 OrderOf(F32 score) {
  score = score != score ? Set(__builtin_inff()) : score;
  score = Max(score, Set(-__FLT_MAX__)) + 0.0f;
  const I32 bits = reinterpret_cast<I32>(score);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
SA_INLINE float ScoreOf(int32_t order) {
  const int32_t bits = order ^ ((order >> 31) & 0x7FFFFFFF);
  float score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

SA_INLINE I32 LoadOrders(const int32_t* p) {
  I32 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

struct OrderRange {
  int32_t least, most;
};

// The orders of scores[count] at orders[count], which may be the same memory, and behind them 64
// that are below every other. count >= 1.
SA_INLINE OrderRange OrdersOf(const float* scores, int64_t count, int32_t* orders) {
  I32 least = I32{} + kMostOrder, most = I32{} + kLeastOrder;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const I32 x = OrderOf(Load(scores + i));
    std::memcpy(orders + i, &x, sizeof(x));
    least = x < least ? x : least;
    most = x > most ? x : most;
  }
  OrderRange range = {kMostOrder, kLeastOrder};
  for (int lane = 0; lane < kLanes; ++lane) {
    range.least = least[lane] < range.least ? least[lane] : range.least;
    range.most = most[lane] > range.most ? most[lane] : range.most;
  }
  for (; i < count; ++i) {
    const int32_t x = OrderOf(scores[i]);
    orders[i] = x;
    range.least = x < range.least ? x : range.least;
    range.most = x > range.most ? x : range.most;
  }
  for (int64_t pad = 0; pad < 64; ++pad) orders[count + pad] = kLeastOrder - 1;
  return range;
}

// How many of orders[count] are at least `bound`, which is above kLeastOrder. Reads up to 63 behind
// them.
SA_INLINE int64_t CountAtLeast(const int32_t* orders, int64_t count, int32_t bound) {
  const I32 at = I32{} + bound;
  I32 sums[2] = {};
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const I32 x = LoadOrders(orders + i + part * kLanes);
#if defined(SA_AVX512)
      const __m512i sum = reinterpret_cast<__m512i>(sums[part & 1]);
      const __mmask16 reached =
          _mm512_cmpge_epi32_mask(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(at));
      sums[part & 1] =
          reinterpret_cast<I32>(_mm512_mask_sub_epi32(sum, reached, sum, _mm512_set1_epi32(-1)));
#else
      sums[part & 1] -= x >= at;
#endif
    }
  }
  const I32 sum = sums[0] + sums[1];
  int64_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

// The least of orders[count] that is at least `bound`, and the most that is below it; what there is
// none of, is kMostOrder or kLeastOrder.
SA_INLINE OrderRange Neighbours(const int32_t* orders, int64_t count, int32_t bound) {
  const I32 at = I32{} + bound;
  I32 least = I32{} + kMostOrder, most = I32{} + kLeastOrder;
  for (int64_t i = 0; i < count; i += kLanes) {
    const I32 x = LoadOrders(orders + i);
    const I32 reached = x >= at;
    const I32 high = reached ? x : I32{} + kMostOrder, low = reached ? I32{} + kLeastOrder : x;
    least = high < least ? high : least;
    most = low > most ? low : most;
  }
  OrderRange range = {kMostOrder, kLeastOrder};
  for (int lane = 0; lane < kLanes; ++lane) {
    range.least = least[lane] < range.least ? least[lane] : range.least;
    range.most = most[lane] > range.most ? most[lane] : range.most;
  }
  return range;
}

struct Cut {
  int32_t order;
  int64_t at_least;  // how many orders reach the cut: rank, ..., rank + slack, or more where equals
                     // leave no such cut
  int64_t above;     // how many exceed it; only where at_least > rank + slack
};

// Copies those of orders[count] that are in [low, high) to few[...], whose room is for them and 16
// more.
SA_INLINE void CopyBetween(const int32_t* orders, int64_t count, int64_t low, int64_t high,
                           int32_t* few) {
  const I32 least = I32{} + static_cast<int32_t>(low);
  const I32 most = I32{} + static_cast<int32_t>(high - 1);
  for (int64_t i = 0; i < count; i += kLanes) {
    const I32 x = LoadOrders(orders + i);  // behind `count` lie orders below every other
    uint32_t bits = LaneBits((x >= least) & (x <= most));
#if defined(SA_AVX512)
    if (bits == 0) continue;
    _mm512_storeu_si512(few, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits),
                                                         reinterpret_cast<__m512i>(x)));
    few += CountBits(bits);
#else
    for (; bits != 0; bits &= bits - 1) *few++ = orders[i + LowestBit(bits)];
#endif
  }
}

// A cut that at least the `rank` highest of orders[count] reach, and no more than rank + slack if
// that can be: then those that reach it are the highest. Otherwise it is the rank-th highest order.
// 1 <= rank <= count; the range is of these orders; up to 63 behind them are read.
SA_INLINE Cut FindCut(const int32_t* orders, int64_t count, OrderRange range, int64_t rank,
                      int64_t slack) {
  constexpr int64_t kFew = 512;
  int32_t few[kFew + 64];
  const int32_t* from = orders;  // those that are still counted, and how many are above all of them
  int64_t from_count = count, passed = 0;
  int64_t low = range.least, high = int64_t{range.most} + 1;
  int64_t low_count = count, high_count = 0;
  for (int step = 1; high - low > 1 && low_count > rank + slack; ++step) {
    const int64_t between = low_count - high_count;
    if (between <= kFew && from_count > 4 * kFew) {
      CopyBetween(from, from_count, low, high, few);
      for (int64_t pad = 0; pad < 64; ++pad) few[between + pad] = kLeastOrder - 1;
      from = few;
      from_count = between;
      passed = high_count;
    }
    // Where the orders between would put it if they were spread evenly, but rather beyond the rank
    // than on the side that is near it already; now and then the half, which bounds the steps.
    int64_t middle = low + (high - low) / 2;
    if (step % 4 != 0) {
      const int64_t margin = between / 64 + slack / 2;
      const bool low_is_near = low_count - rank < rank - high_count;
      const int64_t aim = low_is_near ? rank - margin : rank + margin;
      const double share = static_cast<double>(low_count - aim) / static_cast<double>(between);
      middle = low + static_cast<int64_t>(share * static_cast<double>(high - low));
      if (middle <= low) middle = low + 1;
      if (middle >= high) middle = high - 1;
    }
    const int64_t reached = passed + CountAtLeast(from, from_count, static_cast<int32_t>(middle));
    if (reached >= rank) {
      low = middle;
      low_count = reached;
    } else {
      high = middle;
      high_count = reached;
    }
    if (step < 3) continue;
    // Many may be equal: on to orders that are there.
    const OrderRange near = Neighbours(from, from_count, static_cast<int32_t>(middle));
    if (reached >= rank) {
      low = near.least;
    } else if (near.most >= low) {
      high = int64_t{near.most} + 1;
    }
  }
  return {static_cast<int32_t>(low), low_count, high_count};
}

}  // namespace sparse_attention::cpu::SA_ISA

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_ORDER_INL_H_
