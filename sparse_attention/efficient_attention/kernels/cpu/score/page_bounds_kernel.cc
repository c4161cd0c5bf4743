#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/dot_tile.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kPrefetchBytes = 6144;

#if defined(SA_AVX512_BF16)
SA_INLINE bool InBFloat16(const PageBoundsProblem& p) {
  return p.query_element == Element::kBFloat16 && p.bounds_element == Element::kBFloat16;
}
#endif

// A NaN is of either sign.

template <typename T>
SA_INLINE void SplitAs(const void* queries, int64_t stride, int32_t dim, int32_t rows,
                       float* split) {
  for (int32_t r = 0; r < rows; ++r) {
    const T* const q = reinterpret_cast<const T*>(static_cast<const char*>(queries) + r * stride);
    float* const out = split + r * int64_t{2} * dim;
    for (int32_t i = 0; i < dim; i += kLanes) {
      const int count = dim - i < kLanes ? dim - i : kLanes;
      const F32 x = LoadFirst(q + i, count);
      StoreFirst(x < 0.f ? F32{} : x, out + i, count);
      StoreFirst(x > 0.f ? F32{} : x, out + dim + i, count);
    }
  }
}

void SplitQueries(const PageBoundsProblem& p, const void* queries, int64_t stride, void* split) {
#if defined(SA_AVX512_BF16)
  if (InBFloat16(p)) {
    for (int32_t r = 0; r < p.rows; ++r) {
      const uint16_t* const q =
          reinterpret_cast<const uint16_t*>(static_cast<const char*>(queries) + r * stride);
      uint16_t* const out = static_cast<uint16_t*>(split) + r * int64_t{2} * p.dim;
      for (int32_t i = 0; i < p.dim; ++i) {
        const bool negative = q[i] >> 15 != 0, nan = (q[i] & 0x7FFF) > 0x7F80;
        out[i] = negative && !nan ? 0 : q[i];
        out[p.dim + i] = negative || nan ? q[i] : 0;
      }
    }
    return;
  }
#endif
  float* const out = static_cast<float*>(split);
  switch (p.query_element) {
    case Element::kFloat32:
      return SplitAs<float>(queries, stride, p.dim, p.rows, out);
    case Element::kFloat16:
      return SplitAs<Float16>(queries, stride, p.dim, p.rows, out);
    case Element::kBFloat16:
      return SplitAs<BFloat16>(queries, stride, p.dim, p.rows, out);
  }
}

// A NaN of either stays.
SA_INLINE F4 MaxOrNan(F4 a, F4 b) { return a != a ? a : (a > b ? a : b); }

template <typename Dot>
SA_INLINE void ScoreBy(const PageBoundsProblem& p, int64_t begin, int64_t end, float* out,
                       int64_t out_stride) {
  using Key = typename Dot::Key;
  const int length = 2 * p.dim;
  const auto* const queries = static_cast<const typename Dot::Query*>(p.queries);
  const char* const bounds = static_cast<const char*>(p.bounds);
  for (int64_t page = begin; page < end; page += kTileKeys) {
    const int count = static_cast<int>(end - page < kTileKeys ? end - page : kTileKeys);
    const Key* keys[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) {  // behind the end the last one again
      keys[k] = reinterpret_cast<const Key*>(bounds +
                                             (page + (k < count ? k : count - 1)) * p.page_stride);
    }
    F4 scores[kMaxScoreRows];
    DotRows<Dot, kPrefetchBytes>(keys, queries, length, length, p.rows, scores);
    int lines = p.rows;
    if (p.reduce != RowReduce::kNone) {
      lines = 1;
      for (int r = 1; r < p.rows; ++r) {
        scores[0] =
            p.reduce == RowReduce::kMax ? MaxOrNan(scores[0], scores[r]) : scores[0] + scores[r];
      }
      if (p.reduce == RowReduce::kMean) scores[0] /= static_cast<float>(p.rows);
    }
    for (int r = 0; r < lines; ++r) {
      float* const line = out + r * out_stride + (page - begin);
      if (count == kTileKeys) {
        std::memcpy(line, &scores[r], sizeof(F4));
      } else {
        std::memcpy(line, &scores[r], sizeof(float) * static_cast<size_t>(count));
      }
    }
  }
}

void Score(const PageBoundsProblem& p, int64_t begin, int64_t end, float* out, int64_t out_stride) {
#if defined(SA_AVX512_BF16)
  if (InBFloat16(p)) return ScoreBy<BFloat16Dot>(p, begin, end, out, out_stride);
#endif
  switch (p.bounds_element) {
    case Element::kFloat32:
      return ScoreBy<FloatDot<float>>(p, begin, end, out, out_stride);
    case Element::kFloat16:
      return ScoreBy<FloatDot<Float16>>(p, begin, end, out, out_stride);
    case Element::kBFloat16:
      return ScoreBy<FloatDot<BFloat16>>(p, begin, end, out, out_stride);
  }
}

template <typename T>
SA_INLINE bool AllFinite(const T* row, int32_t dim) {
  F32 zeros = {};  // x - x is 0 or NaN
  for (int32_t i = 0; i < dim; i += kLanes) {
    const F32 x = dim - i < kLanes ? LoadFirst(row + i, dim - i) : LoadFloats(row + i);
    zeros = zeros + (x - x);
  }
  return SumLanes(zeros) == 0;
}

// Values that are elements.
SA_INLINE void StoreElements(F32 x, float* p, int count) { StoreFirst(x, p, count); }
SA_INLINE void StoreElements(F32 x, BFloat16* p, int count) {
  const U16Half bits = __builtin_convertvector(reinterpret_cast<U32>(x) >> 16, U16Half);
  std::memcpy(p, &bits, 2 * static_cast<size_t>(count));
}
__attribute__((flatten)) SA_INLINE void StoreElements(F32 x, Float16* p, int count) {
#if defined(SA_AVX512)
  const __m256i bits = _mm512_cvtps_ph(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT);
#elif defined(SA_AVX2)
  const __m128i bits = _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT);
#elif defined(SA_NEON)
  const float16x4_t bits = vcvt_f16_f32(reinterpret_cast<float32x4_t>(x));
#else
  Float16 bits[kLanes];
  for (int i = 0; i < kLanes; ++i) bits[i] = ToFloat16(x[i]);
#endif
  std::memcpy(p, &bits, 2 * static_cast<size_t>(count));
}

// What is left of one bound of a page after quantisation with its own range.
SA_INLINE void PseudoQuantize(float* x, int32_t dim, int32_t bits) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: an addition rounds half to even
  float low = x[0], high = x[0];
  for (int32_t i = 1; i < dim; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float range = high - low, levels = static_cast<float>((1 << bits) - 1);
  const float scale = 1.f / (range == 0 ? 1.f : range) * levels;
  for (int32_t i = 0; i < dim; ++i) {
    float code = (x[i] - low) * scale;
    if (code < levels + 1) code = code + kRound - kRound;
    code = code > levels ? levels : code < 0 ? 0 : code;
    x[i] = code / scale + low;
  }
}

// Bounds of page keys [begin, end).
template <typename T>
SA_INLINE void BoundPage(const RowView& keys, int32_t dim, int64_t begin, int64_t end, T* bounds) {
  bool all = true;
  for (int64_t j = begin; j < end && all; ++j) {
    all = AllFinite(reinterpret_cast<const T*>(keys.Row(j)), dim);
  }
  for (int32_t i = 0; i < dim; i += kLanes) {
    const int count = dim - i < kLanes ? dim - i : kLanes;
    F32 low = {}, high = {};
    bool any = false;
    for (int64_t j = begin; j < end; ++j) {
      const T* const row = reinterpret_cast<const T*>(keys.Row(j));
      if (!all && !AllFinite(row, dim)) continue;
      const F32 x = count < kLanes ? LoadFirst(row + i, count) : LoadFloats(row + i);
      low = any ? Min(x, low) : x;
      high = any ? Max(x, high) : x;
      any = true;
    }
    StoreElements(high, bounds + i, count);
    StoreElements(low, bounds + dim + i, count);
  }
}

// As float32, whatever the keys are.
template <typename T>
SA_INLINE void BoundPageFloat(const RowView& keys, int32_t dim, int64_t begin, int64_t end,
                              float* bounds) {
  // The elements of a page's bounds take no more room than floats.
  T* const elements = reinterpret_cast<T*>(bounds);
  BoundPage(keys, dim, begin, end, elements);
  if constexpr (sizeof(T) == 2) {
    // From the end on, so that nothing is overwritten before it is read.
    for (int32_t i = 2 * dim - 1; i >= 0; --i)
      StoreFirst(LoadFirst(elements + i, 1), bounds + i, 1);
  }
}

template <typename T>
SA_INLINE void UpdateAs(const RowView& keys, int32_t dim, int64_t page_size, int32_t label_bits,
                        int64_t begin, int64_t end, void* bounds, int64_t page_stride) {
  for (int64_t j = begin; j < end; j += page_size) {
    const int64_t page_end = end - j < page_size ? end : j + page_size;
    char* const page = static_cast<char*>(bounds) + j / page_size * page_stride;
    if (label_bits >= 16) {
      BoundPage(keys, dim, j, page_end, reinterpret_cast<T*>(page));
      continue;
    }
    float* const wide = reinterpret_cast<float*>(page);
    BoundPageFloat<T>(keys, dim, j, page_end, wide);
    PseudoQuantize(wide, dim, label_bits);
    PseudoQuantize(wide + dim, dim, label_bits);
  }
}

void Update(const RowView& keys, Element element, int32_t dim, int64_t page_size,
            int32_t label_bits, int64_t begin, int64_t end, void* bounds, int64_t page_stride) {
  switch (element) {
    case Element::kFloat32:
      return UpdateAs<float>(keys, dim, page_size, label_bits, begin, end, bounds, page_stride);
    case Element::kFloat16:
      return UpdateAs<Float16>(keys, dim, page_size, label_bits, begin, end, bounds, page_stride);
    case Element::kBFloat16:
      return UpdateAs<BFloat16>(keys, dim, page_size, label_bits, begin, end, bounds, page_stride);
  }
}

}  // namespace

PageBoundsKernels MakePageBoundsKernels() { return {SplitQueries, Score, Update}; }

}  // namespace sparse_attention::cpu::SA_ISA
