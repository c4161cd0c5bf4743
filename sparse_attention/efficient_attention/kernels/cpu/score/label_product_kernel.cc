#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_lines.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

// A vector that is quantised with its own range: x = code / scale + low.
struct Range {
  float scale, low, levels;
};

// As the research engine computes them, so that codes are the same. `at(c)` is channel c.
template <typename At>
SA_INLINE Range FindRange(const At& at, int32_t channels, int32_t label_bits) {
  float low = at(0), high = low;
  for (int32_t c = 1; c < channels; ++c) {
    const float x = at(c);
    if (x != x || x < low) low = low != low ? low : x;  // a NaN stays
    if (x != x || x > high) high = high != high ? high : x;
  }
  const float range = high - low;
  const float levels = static_cast<float>((1 << label_bits) - 1);
  return {1.f / (range == 0 ? 1.f : range) * levels, low, levels};
}

// Whole, in [0, levels], halves to even; NaN is 0.
SA_INLINE float Code(const Range& range, float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const float code = (x - range.low) * range.scale;
  if (!(code > 0)) return 0;
  return code >= range.levels ? range.levels : code + kRound - kRound;
}

struct RowQuery {
  float a, b, c, unused;
};

// What prepare writes of a row: a RowQuery, then for each four channels a Quad, or floats.
struct Quad {
  uint32_t bytes;      // four signed bytes
  uint32_t even, odd;  // the same as two times two of 16 bits
  uint32_t unused;
};

SA_INLINE int64_t RowBytes(const LabelProblem& p) { return LabelQueryBytes(p.channels, 1); }
SA_INLINE const RowQuery* RowOf(const LabelProblem& p, int row) {
  return reinterpret_cast<const RowQuery*>(static_cast<const char*>(p.queries) + row * RowBytes(p));
}

template <typename T>
SA_INLINE float ToFloat1(T x) {
  const T only[kLanes] = {x};
  return LoadFloats(only)[0];
}

SA_INLINE float Sqrt(float x) { return __builtin_sqrtf(x); }

template <typename T>
SA_INLINE void PrepareRow(const LabelProblem& p, const T* query, const int32_t* channels,
                          char* out) {
  const int32_t n = p.channels;
  const auto at = [&](int32_t c) __attribute__((always_inline)) {
    return ToFloat1(query[channels[c]]);
  };
  const float root = Sqrt(static_cast<float>(n));
  RowQuery row = {};
  float* const floats = reinterpret_cast<float*>(out + sizeof(RowQuery));
  if (p.label_bits >= 16) {
    for (int32_t c = 0; c < n; ++c) floats[c] = at(c) / root;
    std::memcpy(out, &row, sizeof(row));
    return;
  }
  const Range range = FindRange(at, n, p.label_bits);
  const int shift = p.label_bits == 8 ? 128 : 0;
  double sum = 0;
  for (int32_t c = 0; c < n; ++c) {
    sum += static_cast<double>(Code(range, at(c))) / static_cast<double>(range.scale) + range.low;
  }
  const double exact_root = __builtin_sqrt(static_cast<double>(n)), scale = range.scale;
  row.a = static_cast<float>(1 / (scale * exact_root));
  row.b = static_cast<float>((range.low + shift / scale) / exact_root);
  row.c = static_cast<float>(sum / exact_root);
  std::memcpy(out, &row, sizeof(row));
  if (p.label_bits > 8) {
    for (int32_t c = 0; c < n; ++c) {
      floats[c] = static_cast<float>((static_cast<double>(Code(range, at(c))) / scale + range.low) /
                                     exact_root);
    }
    return;
  }
  const int32_t quads = (n + 7) / 8 * 2;
  for (int32_t i = 0; i < quads; ++i) {
    Quad quad = {};
    for (int32_t k = 0; k < 4; ++k) {
      if (4 * i + k >= n) continue;
      const uint32_t code =
          static_cast<uint32_t>(static_cast<int32_t>(Code(range, at(4 * i + k))) - shift);
      quad.bytes |= (code & 0xFF) << (8 * k);
      (k % 2 == 0 ? quad.even : quad.odd) |= (code & 0xFFFF) << (8 * (k & 2));
    }
    std::memcpy(out + sizeof(RowQuery) + i * int64_t{sizeof(Quad)}, &quad, sizeof(quad));
  }
}

void Prepare(const LabelProblem& p, const void* queries, int64_t stride,
             const int32_t* channel_list, int64_t channel_stride, void* prepared) {
  for (int32_t r = 0; r < p.rows; ++r) {
    const char* const query = static_cast<const char*>(queries) + r * stride;
    const int32_t* const channels = channel_list + r * channel_stride;
    char* const out = static_cast<char*>(prepared) + r * RowBytes(p);
    switch (p.element) {
      case Element::kFloat32:
        PrepareRow(p, reinterpret_cast<const float*>(query), channels, out);
        break;
      case Element::kFloat16:
        PrepareRow(p, reinterpret_cast<const Float16*>(query), channels, out);
        break;
      case Element::kBFloat16:
        PrepareRow(p, reinterpret_cast<const BFloat16*>(query), channels, out);
        break;
    }
  }
}

// sum + the products of four unsigned bytes a lane with a Quad.
SA_INLINE I32 AddProducts(I32 sum, U32 bytes, const Quad& q) {
#if defined(SA_AVX512_BF16)
  return reinterpret_cast<I32>(
      _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(bytes),
                          _mm512_set1_epi32(static_cast<int32_t>(q.bytes))));
#else
  const U32 even = bytes & 0x00FF00FF, odd = (bytes >> 8) & 0x00FF00FF;
#if defined(SA_AVX512)
  const auto madd = [](U32 x, uint32_t y) __attribute__((always_inline)) {
    return reinterpret_cast<I32>(_mm512_madd_epi16(reinterpret_cast<__m512i>(x),
                                                   _mm512_set1_epi32(static_cast<int32_t>(y))));
  };
  return sum + madd(even, q.even) + madd(odd, q.odd);
#elif defined(SA_AVX2)
  const auto madd = [](U32 x, uint32_t y) __attribute__((always_inline)) {
    return reinterpret_cast<I32>(_mm256_madd_epi16(reinterpret_cast<__m256i>(x),
                                                   _mm256_set1_epi32(static_cast<int32_t>(y))));
  };
  return sum + madd(even, q.even) + madd(odd, q.odd);
#elif defined(__SSE2__)
  const auto madd = [](U32 x, uint32_t y) __attribute__((always_inline)) {
    return reinterpret_cast<I32>(
        _mm_madd_epi16(reinterpret_cast<__m128i>(x), _mm_set1_epi32(static_cast<int32_t>(y))));
  };
  return sum + madd(even, q.even) + madd(odd, q.odd);
#elif defined(SA_NEON)
  // A product of a byte and a signed byte fits 16 bits.
  const auto products = [](U32 x, uint32_t y) __attribute__((always_inline)) {
    return vmulq_s16(reinterpret_cast<int16x8_t>(x), vreinterpretq_s16_u32(vdupq_n_u32(y)));
  };
  const int32x4_t with_even = vpadalq_s16(reinterpret_cast<int32x4_t>(sum), products(even, q.even));
  return reinterpret_cast<I32>(vpadalq_s16(with_even, products(odd, q.odd)));
#else
  const auto half = [](uint32_t x, int i) { return static_cast<int16_t>(x >> (16 * i)); };
  const I32 e = reinterpret_cast<I32>(even), o = reinterpret_cast<I32>(odd);
  return sum + (e & 0xFFFF) * half(q.even, 0) + (e >> 16) * half(q.even, 1) +
         (o & 0xFFFF) * half(q.odd, 0) + (o >> 16) * half(q.odd, 1);
#endif
#endif
}

SA_INLINE F32 ToFloats(I32 x) { return __builtin_convertvector(x, F32); }

template <typename T>
SA_INLINE U32 LoadWords(const T* p, int count) {
  typedef T Words __attribute__((vector_size(sizeof(T) * kLanes)));
  Words x = {};
  std::memcpy(&x, p, sizeof(T) * static_cast<size_t>(count));
  return __builtin_convertvector(x, U32);
}

constexpr int64_t kPrefetchKeys = 1024;  // 4 KB ahead of words and of floats

constexpr Quad kOnes = {0x01010101, 0x00010001, 0x00010001, 0};

// Labels of up to 8 bits, kNibbles: up to 4.
template <bool kNibbles, int kRows, Line kLine>
SA_INLINE void ScoreBytes(const LabelProblem& p, int row, int64_t begin, int64_t end, float* out,
                          int64_t out_stride) {
  const int words = LabelWords(p.channels, p.label_bits);
  const uint32_t* const labels = static_cast<const uint32_t*>(p.labels);
  const Quad* quads[kRows];
  RowQuery q[kRows];
  for (int r = 0; r < kRows; ++r) {
    q[r] = *RowOf(p, row + r);
    quads[r] = reinterpret_cast<const Quad*>(RowOf(p, row + r) + 1);
  }
  const auto step = [&](int64_t j, int count) __attribute__((always_inline)) {
    I32 products[kRows] = {}, codes = {};
    for (int w = 0; w < words; ++w) {
      const uint32_t* const at = labels + w * p.label_stride + j;
      PrefetchL2(at + kPrefetchKeys);
      const U32 word = count == kLanes ? LoadWords(at, kLanes) : LoadWords(at, count);
      if constexpr (kNibbles) {
        const U32 lower = word & 0x0F0F0F0F, upper = (word >> 4) & 0x0F0F0F0F;
        codes = AddProducts(codes, lower + upper, kOnes);
        for (int r = 0; r < kRows; ++r) {
          products[r] = AddProducts(products[r], lower, quads[r][2 * w]);
          products[r] = AddProducts(products[r], upper, quads[r][2 * w + 1]);
        }
      } else {
        codes = AddProducts(codes, word, kOnes);
        for (int r = 0; r < kRows; ++r) {
          products[r] = AddProducts(products[r], word, quads[r][w]);
        }
      }
    }
    const F32 steps = LoadCount(p.step + j, count), lows = LoadCount(p.low + j, count);
    PrefetchL2(p.step + j + kPrefetchKeys);
    PrefetchL2(p.low + j + kPrefetchKeys);
    const F32 sum = ToFloats(codes);
    F32 score[kRows];
    for (int r = 0; r < kRows; ++r) {
      const F32 product = MulAdd(ToFloats(products[r]), Set(q[r].a), sum * q[r].b);
      score[r] = MulAdd(product, steps, lows * q[r].c);
    }
    Emit<kRows, kLine>(score, row, p.rows, p.reduce, out + (j - begin), out_stride, count);
  };
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) step(j, kLanes);
  if (j < end) step(j, static_cast<int>(end - j));
}

// Codes of more bits, or elements: products in float32. kQuantized: Word is uint16_t.
template <typename Word, bool kQuantized, int kRows, Line kLine>
SA_INLINE void ScoreFloats(const LabelProblem& p, int row, int64_t begin, int64_t end, float* out,
                           int64_t out_stride) {
  const Word* const labels = static_cast<const Word*>(p.labels);
  const float* floats[kRows];
  for (int r = 0; r < kRows; ++r) {
    floats[r] = reinterpret_cast<const float*>(RowOf(p, row + r) + 1);
  }
  const auto step = [&](int64_t j, int count) __attribute__((always_inline)) {
    F32 score[kRows] = {};
    for (int c = 0; c < p.channels; ++c) {
      const Word* const at = labels + c * p.label_stride + j;
      F32 x;
      if constexpr (kQuantized) {
        x = ToFloats(
            reinterpret_cast<I32>(count == kLanes ? LoadWords(at, kLanes) : LoadWords(at, count)));
      } else {
        x = count == kLanes ? LoadFloats(at) : LoadFirst(at, count);
      }
      for (int r = 0; r < kRows; ++r) score[r] = MulAdd(x, Set(floats[r][c]), score[r]);
    }
    if constexpr (kQuantized) {
      const F32 steps = LoadCount(p.step + j, count), lows = LoadCount(p.low + j, count);
      for (int r = 0; r < kRows; ++r) {
        score[r] = MulAdd(score[r], steps, lows * RowOf(p, row + r)->c);
      }
    }
    Emit<kRows, kLine>(score, row, p.rows, p.reduce, out + (j - begin), out_stride, count);
  };
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) step(j, kLanes);
  if (j < end) step(j, static_cast<int>(end - j));
}

template <int kRows, Line kLine>
SA_INLINE void ScoreRows(const LabelProblem& p, int row, int64_t begin, int64_t end, float* out,
                         int64_t out_stride) {
  if (p.label_bits <= 4) {
    return ScoreBytes<true, kRows, kLine>(p, row, begin, end, out, out_stride);
  }
  if (p.label_bits <= 8) {
    return ScoreBytes<false, kRows, kLine>(p, row, begin, end, out, out_stride);
  }
  if (p.label_bits <= 15) {
    return ScoreFloats<uint16_t, true, kRows, kLine>(p, row, begin, end, out, out_stride);
  }
  switch (p.element) {
    case Element::kFloat32:
      return ScoreFloats<float, false, kRows, kLine>(p, row, begin, end, out, out_stride);
    case Element::kFloat16:
      return ScoreFloats<Float16, false, kRows, kLine>(p, row, begin, end, out, out_stride);
    case Element::kBFloat16:
      return ScoreFloats<BFloat16, false, kRows, kLine>(p, row, begin, end, out, out_stride);
  }
}

// Rows by fours for as many keys as stay in the first-level cache.
template <Line kLine>
void ScoreLine(const LabelProblem& p, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  constexpr int64_t kBlockKeys = 512;
  for (int64_t j = begin; j < end; j += kBlockKeys) {
    const int64_t block_end = end - j < kBlockKeys ? end : j + kBlockKeys;
    float* const line = out + (j - begin);
    int row = 0;
    for (; row + 4 <= p.rows; row += 4) {
      ScoreRows<4, kLine>(p, row, j, block_end, line, out_stride);
    }
    for (; row < p.rows; ++row) ScoreRows<1, kLine>(p, row, j, block_end, line, out_stride);
  }
}

void Score(const LabelProblem& p, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  switch (p.reduce) {
    case RowReduce::kNone:
      return ScoreLine<Line::kNone>(p, begin, end, out, out_stride);
    case RowReduce::kMax:
      return ScoreLine<Line::kMax>(p, begin, end, out, out_stride);
    case RowReduce::kSum:
    case RowReduce::kMean:
      return ScoreLine<Line::kSum>(p, begin, end, out, out_stride);
  }
}

template <typename T>
SA_INLINE void AppendKey(const T* key, const int32_t* channels, int32_t count, int32_t label_bits,
                         int64_t j, void* labels, int64_t label_stride, float* step, float* low) {
  if (label_bits >= 16) {
    for (int32_t c = 0; c < count; ++c) {
      static_cast<T*>(labels)[c * label_stride + j] = key[channels[c]];
    }
    return;
  }
  const auto at = [&](int32_t c) __attribute__((always_inline)) {
    return ToFloat1(key[channels[c]]);
  };
  const Range range = FindRange(at, count, label_bits);
  step[j] = 1 / range.scale;
  low[j] = range.low;
  if (label_bits > 8) {
    for (int32_t c = 0; c < count; ++c) {
      static_cast<uint16_t*>(labels)[c * label_stride + j] =
          static_cast<uint16_t>(Code(range, at(c)));
    }
    return;
  }
  const int32_t of_word = label_bits <= 4 ? 8 : 4;
  for (int32_t first = 0; first < count; first += of_word) {
    uint32_t word = 0;
    for (int32_t i = 0; i < of_word && first + i < count; ++i) {
      word |= static_cast<uint32_t>(Code(range, at(first + i))) << (8 * (i % 4) + i / 4 * 4);
    }
    static_cast<uint32_t*>(labels)[first / of_word * label_stride + j] = word;
  }
}

void Append(const RowView& keys, Element element, const int32_t* channel_list, int32_t channels,
            int32_t label_bits, int64_t begin, int64_t end, void* labels, int64_t label_stride,
            float* step, float* low) {
  for (int64_t j = begin; j < end; ++j) {
    const char* const key = keys.Row(j);
    switch (element) {
      case Element::kFloat32:
        AppendKey(reinterpret_cast<const float*>(key), channel_list, channels, label_bits, j,
                  labels, label_stride, step, low);
        break;
      case Element::kFloat16:
        AppendKey(reinterpret_cast<const Float16*>(key), channel_list, channels, label_bits, j,
                  labels, label_stride, step, low);
        break;
      case Element::kBFloat16:
        AppendKey(reinterpret_cast<const BFloat16*>(key), channel_list, channels, label_bits, j,
                  labels, label_stride, step, low);
        break;
    }
  }
}

}  // namespace

LabelKernels MakeLabelKernels() { return {Prepare, Score, Append}; }

}  // namespace sparse_attention::cpu::SA_ISA
