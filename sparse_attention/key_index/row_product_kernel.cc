#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/key_index/row_product.h"

// Without it GCC keeps arrays of vectors in memory.
#define SA_UNROLL _Pragma("GCC unroll 16")

namespace sparse_attention::cpu::SA_ISA {
namespace {

// Rows and vectors of outputs of one tile, which stay in registers. One row alone takes more
// vectors: the additions of a vector wait for one another.
#if defined(SA_AVX512)
constexpr int64_t kRows = 8, kVectors = 2;
#else
constexpr int64_t kRows = 4, kVectors = 2;
#endif
constexpr int64_t kVectorsOfOneRow = 8;
constexpr int64_t kRowBlock = 32;  // rows for which a tile's weights stay in the first-level cache
constexpr int64_t kFewRows = 4;
constexpr int64_t kBytesAhead = 4096;

typedef double F64 __attribute__((vector_size(4 * kLanes)));
typedef int64_t I64 __attribute__((vector_size(4 * kLanes)));
typedef uint64_t U64 __attribute__((vector_size(4 * kLanes)));
typedef float F32Half __attribute__((vector_size(2 * kLanes)));
constexpr int64_t kHalf = kLanes / 2;

// The first `count` weights, 0 behind them; nothing beyond them is read.
template <typename T>
SA_INLINE F32 LoadPart(const T* p, int64_t count) {
#if defined(SA_AVX512)
  if constexpr (sizeof(T) == sizeof(float)) {
    return reinterpret_cast<F32>(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
  }
#endif
  return LoadFirst(p, static_cast<int>(count));
}

template <typename T>
SA_INLINE const T* WeightOf(const Weights& w, int64_t column) {
  return static_cast<const T*>(w.data) + column / kTileColumns * w.tile_stride +
         column % kTileColumns;
}

// Weights of vectors of outputs, row after row, and those that are read some time later: rows of
// the same vectors, then of the `vectors` behind them, or behind the last ones what is read next.
template <typename T, int64_t Vectors>
struct Ahead {
  static constexpr int64_t kBytes = Vectors * kLanes * static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kRowsAhead = kBytesAhead / kBytes;

  Ahead(const Weights& w, int64_t column) : same_rows(w.in - kRowsAhead) {
    const bool more = column + Vectors * kLanes < w.out;
    next = more ? reinterpret_cast<const char*>(WeightOf<T>(w, column + Vectors * kLanes))
                : static_cast<const char*>(w.next);
    next_step = more ? w.row_stride * static_cast<int64_t>(sizeof(T)) : kBytes;
  }
  SA_INLINE void Ask(const T* const* weights, int64_t i, int64_t row_stride) const {
    constexpr int64_t kOfLine = 64 / static_cast<int64_t>(sizeof(T)) / kLanes;  // vectors
    if (i < same_rows) {
      SA_UNROLL
      for (int64_t v = 0; v < Vectors; v += kOfLine) {
        PrefetchL2(weights[v] + (i + kRowsAhead) * row_stride);
      }
    } else if (next != nullptr) {
      const char* const row = next + (i - same_rows) * next_step;
      for (int64_t byte = 0; byte < kBytes; byte += 64) PrefetchL2(row + byte);
    }
  }

  const int64_t same_rows;
  const char* next;
  int64_t next_step;
};

// Outputs [column, column + Vectors * kLanes), of which the last vector has `last` in kPartial.
template <typename T, int64_t Rows, int64_t Vectors, bool kPartial>
SA_INLINE void Tile(const float* x, int64_t x_stride, const Weights& w, int64_t column,
                    int64_t last, const float* bias, float* out, int64_t out_stride) {
  const T* weights[Vectors];
  SA_UNROLL
  for (int64_t v = 0; v < Vectors; ++v) weights[v] = WeightOf<T>(w, column + v * kLanes);
  const Ahead<T, Vectors> ahead(w, column);
  F32 sums[Rows][Vectors] = {};
  for (int64_t i = 0; i < w.in; ++i) {
    if constexpr (Rows <= kFewRows) ahead.Ask(weights, i, w.row_stride);
    F32 row_weights[Vectors];
    SA_UNROLL
    for (int64_t v = 0; v < Vectors; ++v) {
      const T* const p = weights[v] + i * w.row_stride;
      row_weights[v] = kPartial && v == Vectors - 1 ? LoadPart(p, last) : LoadFloats(p);
    }
    SA_UNROLL
    for (int64_t r = 0; r < Rows; ++r) {
      const float value = x[r * x_stride + i];
      SA_UNROLL
      for (int64_t v = 0; v < Vectors; ++v) sums[r][v] += value * row_weights[v];
    }
  }
  SA_UNROLL
  for (int64_t v = 0; v < Vectors; ++v) {
    const int64_t c = column + v * kLanes;
    const bool part = kPartial && v == Vectors - 1;
    if (bias != nullptr) {
      const F32 added = part ? LoadPart(bias + c, last) : Load(bias + c);
      SA_UNROLL
      for (int64_t r = 0; r < Rows; ++r) sums[r][v] += added;
    }
    SA_UNROLL
    for (int64_t r = 0; r < Rows; ++r) {
      if (part) {
        StoreFirst(sums[r][v], out + r * out_stride + c, static_cast<int>(last));
      } else {
        Store(sums[r][v], out + r * out_stride + c);
      }
    }
  }
}

template <typename T, int64_t Vectors, bool kPartial>
SA_INLINE void Column(const float* x, int64_t rows, int64_t x_stride, const Weights& w,
                      int64_t column, int64_t last, const float* bias, float* out,
                      int64_t out_stride) {
  int64_t r = 0;
  // Rows a multiple of 2 KB apart share the sets of the first-level cache: few at a time.
  const bool share_sets = x_stride % 512 == 0;
  for (; r + kRows <= rows && !(kRows > 4 && share_sets); r += kRows) {
    Tile<T, kRows, Vectors, kPartial>(x + r * x_stride, x_stride, w, column, last, bias,
                                      out + r * out_stride, out_stride);
  }
  for (; kRows > 4 && r + 4 <= rows; r += 4) {
    Tile<T, 4, Vectors, kPartial>(x + r * x_stride, x_stride, w, column, last, bias,
                                  out + r * out_stride, out_stride);
  }
  if (r + 2 <= rows) {
    Tile<T, 2, Vectors, kPartial>(x + r * x_stride, x_stride, w, column, last, bias,
                                  out + r * out_stride, out_stride);
    r += 2;
  }
  if (r < rows) {
    Tile<T, 1, Vectors, kPartial>(x + r * x_stride, x_stride, w, column, last, bias,
                                  out + r * out_stride, out_stride);
  }
}

template <typename T>
void MultiplyBlock(const float* x, int64_t rows, int64_t x_stride, const Weights& w,
                   const float* bias, float* out, int64_t out_stride) {
  int64_t column = 0;
  if (rows == 1) {
    for (; column + kVectorsOfOneRow * kLanes <= w.out; column += kVectorsOfOneRow * kLanes) {
      Tile<T, 1, kVectorsOfOneRow, false>(x, x_stride, w, column, 0, bias, out, out_stride);
    }
  }
  for (; column + kVectors * kLanes <= w.out; column += kVectors * kLanes) {
    Column<T, kVectors, false>(x, rows, x_stride, w, column, 0, bias, out, out_stride);
  }
  for (; column < w.out; column += kLanes) {
    const int64_t last = w.out - column;
    if (last >= kLanes) {
      Column<T, 1, false>(x, rows, x_stride, w, column, 0, bias, out, out_stride);
    } else {
      Column<T, 1, true>(x, rows, x_stride, w, column, last, bias, out, out_stride);
    }
  }
}

template <typename T>
SA_INLINE void MultiplyBy(const float* x, int64_t rows, int64_t x_stride, const Weights& weights,
                          const float* bias, float* out, int64_t out_stride) {
  const Weights w = weights;
  for (int64_t r = 0; r < rows; r += kRowBlock) {
    MultiplyBlock<T>(x + r * x_stride, rows - r < kRowBlock ? rows - r : kRowBlock, x_stride, w,
                     bias, out + r * out_stride, out_stride);
  }
}
void Multiply(const float* x, int64_t rows, int64_t x_stride, const Weights& weights,
              const float* bias, float* out, int64_t out_stride) {
  switch (weights.element) {
    case Element::kFloat32:
      return MultiplyBy<float>(x, rows, x_stride, weights, bias, out, out_stride);
    case Element::kFloat16:
      return MultiplyBy<Float16>(x, rows, x_stride, weights, bias, out, out_stride);
    case Element::kBFloat16:
      return MultiplyBy<BFloat16>(x, rows, x_stride, weights, bias, out, out_stride);
  }
}

// Activations are computed in float64 and rounded once, which makes them accurate and, without
// fused operations, the same everywhere.

// e^x for |x| <= 700, relative error below 1e-14: the Taylor series of degree 12 over
// [-ln 2 / 2, ln 2 / 2].
SA_INLINE F64 Exp64(F64 x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: the addition rounds
  const F64 shifted = x * 1.4426950408889634 + kRound;
  const F64 whole = shifted - kRound;
  const F64 r = x - whole * 0.693147180369123816490 - whole * 1.90821492927058770002e-10;
  constexpr double kInverseFactorials[] = {
      1 / 479001600., 1 / 39916800., 1 / 3628800., 1 / 362880., 1 / 40320., 1 / 5040., 1 / 720.,
      1 / 120.,       1 / 24.,       1 / 6.,       1 / 2.,      1.,         1.};
  F64 p = F64{} + kInverseFactorials[0];
  SA_UNROLL
  for (int i = 1; i < 13; ++i) p = p * r + kInverseFactorials[i];
  const U64 power = reinterpret_cast<U64>(shifted) << 52;
  return reinterpret_cast<F64>(reinterpret_cast<U64>(p) + power);
}
SA_INLINE F64 Bounded(F64 x, double low, double high) {  // NaN stays NaN
  x = x < low ? F64{} + low : x;
  return x > high ? F64{} + high : x;
}
constexpr double kLowest = -3.4028234663852886e38;  // stands for -infinity, whose value is 0

SA_INLINE F64 Silu(F64 x) {
  return Bounded(x, kLowest, 1e300) / (1 + Exp64(Bounded(-x, -700, 700)));
}

SA_INLINE F64 Tanh(F64 x) {
  // Next to 0 the numerator would cancel; there tanh x = x to the last place.
  const F64 e = Exp64(Bounded(2 * x, -80, 80));
  const I64 tiny = (x < 0 ? -x : x) < 0x1p-13;
  return tiny ? x : (e - 1) / (e + 1);
}

// x P(normal < x), from erfc(a) = t exp(-a^2 + Q(t)), t = 2 / (2 + a), a >= 0: the form of Press et
// al., Numerical Recipes; Q is a Chebyshev interpolation for a <= 26, error below 1e-9.
SA_INLINE F64 Gelu(F64 x) {
  x = Bounded(x, kLowest, 1e300);
  const F64 z = x * 0.70710678118654752440;
  const F64 a = Bounded(z < 0 ? -z : z, 0, 26);
  const F64 t = 2 / (2 + a);
  const F64 s = (t - 0x1.2492492492492p-4) * (28. / 13) - 1;  // [1 / 14, 1] to [-1, 1]
  constexpr double kQ[] = {-0.62352392261426,      0.6301987139482675,     0.03192442696219485,
                           -0.039436677628729634,  -0.004919066901911092,  0.006438801178199564,
                           0.00037548082735353223, -0.0013761659580552531, 0.00013947297236001078,
                           0.0002909439531805447,  -9.247261444045307e-05, -4.908151008370017e-05,
                           2.935171994522534e-05,  4.682813732870273e-06,  -4.487197884373018e-06};
  F64 q = F64{} + kQ[14];
  SA_UNROLL
  for (int i = 14 - 1; i >= 0; --i) q = q * s + kQ[i];
  const F64 half = 0.5 * t * Exp64(Bounded(q - a * a, -700, 700));
  return x * (z < 0 ? half : 1 - half);
}

template <F64 (*Function)(F64)>
SA_INLINE void Apply(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kHalf) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(n - i < kHalf ? n - i : kHalf);
    F32Half values = {};
    if (bytes == sizeof(values)) {
      std::memcpy(&values, x + i, sizeof(values));
    } else {
      std::memcpy(&values, x + i, bytes);
    }
    values = __builtin_convertvector(Function(__builtin_convertvector(values, F64)), F32Half);
    if (bytes == sizeof(values)) {
      std::memcpy(x + i, &values, sizeof(values));
    } else {
      std::memcpy(x + i, &values, bytes);
    }
  }
}

void Activate(RowActivation activation, float* x, int64_t n) {
  switch (activation) {
    case RowActivation::kRelu:
      for (int64_t i = 0; i < n; ++i) x[i] = x[i] < 0 ? 0 : x[i];
      break;
    case RowActivation::kSilu:
      return Apply<Silu>(x, n);
    case RowActivation::kGelu:
      return Apply<Gelu>(x, n);
    case RowActivation::kTanh:
      return Apply<Tanh>(x, n);
  }
}

void Signs(const float* x, int64_t n, bool zero_is_one, uint64_t* words) {
  const I32 none = {};
  for (int64_t begin = 0; begin < n; begin += 64) {
    uint64_t word = 0;
    for (int64_t i = begin; i < begin + 64 && i < n; i += kLanes) {
      const int64_t count = n - i;
      const F32 value = count >= kLanes ? Load(x + i) : LoadPart(x + i, count);
      const I32 above = value > 0, zero = value == 0;
      uint64_t part = LaneBits(above | (zero_is_one ? zero : none));
      if (count < kLanes) part &= (uint64_t{1} << count) - 1;
      word |= part << (i - begin);
    }
    words[begin / 64] = word;
  }
}

template <typename T>
SA_INLINE void WidenAll(const void* data, int64_t n, float* out) {
  const T* const x = static_cast<const T*>(data);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(LoadFloats(x + i), out + i);
  if (i < n) {
    StoreFirst(LoadFirst(x + i, static_cast<int>(n - i)), out + i, static_cast<int>(n - i));
  }
}
void Widen(const void* x, Element element, int64_t n, float* out) {
  switch (element) {
    case Element::kFloat32:
      return WidenAll<float>(x, n, out);
    case Element::kFloat16:
      return WidenAll<Float16>(x, n, out);
    case Element::kBFloat16:
      return WidenAll<BFloat16>(x, n, out);
  }
}

}  // namespace

RowProductKernels MakeRowProductKernels() { return {Multiply, Activate, Signs, Widen}; }

}  // namespace sparse_attention::cpu::SA_ISA
