#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/key_index/k_means_core.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int64_t kVectorsOfPack = kPackedCentroids / kLanes;

// One tile of products holds kRows rows times kVectors vectors of centroids in registers.
#if defined(SA_AVX512)
constexpr int64_t kRows = 4, kVectors = 4;
#else
constexpr int64_t kRows = 4, kVectors = 2;
#endif

// Without it GCC keeps arrays of vectors in memory.
#define SA_UNROLL _Pragma("GCC unroll 16")

typedef double F64 __attribute__((vector_size(4 * kLanes)));
typedef float F32Half __attribute__((vector_size(2 * kLanes)));

SA_INLINE F32 FiniteOrZero(F32 x) {
  const U32 bits = reinterpret_cast<U32>(x);
  const I32 finite = (bits & 0x7F800000) != 0x7F800000;
  return reinterpret_cast<F32>(bits & reinterpret_cast<U32>(finite));
}

// Row j as floats: channels, zeros, the extra channel.
template <typename T>
SA_INLINE void LoadRow(const VectorRows& x, int64_t j, float* out) {
  const T* const row =
      reinterpret_cast<const T*>(static_cast<const char*>(x.data) + j * x.row_stride);
  int64_t i = 0;
  for (; i + kLanes <= x.channels; i += kLanes) Store(FiniteOrZero(LoadFloats(row + i)), out + i);
  if (i < x.channels) {
    const int count = static_cast<int>(x.channels - i);
    StoreFirst(FiniteOrZero(LoadFirst(row + i, count)), out + i, count);
  }
  for (i = x.channels; i < x.width; ++i) out[i] = 0;
  if (x.extra != nullptr) out[x.width] = x.extra[j];
}

template <typename T>
SA_INLINE void LoadRows(const VectorRows& x, int64_t begin, int64_t count, float* block) {
  const int64_t dim = x.dim();
  for (int64_t r = 0; r < count; ++r) LoadRow<T>(x, begin + r, block + r * dim);
}

void LoadBlock(const VectorRows& x, int64_t begin, int64_t count, float* block) {
  switch (x.element) {
    case Element::kFloat32:
      return LoadRows<float>(x, begin, count, block);
    case Element::kFloat16:
      return LoadRows<Float16>(x, begin, count, block);
    case Element::kBFloat16:
      return LoadRows<BFloat16>(x, begin, count, block);
  }
}

// The least distance of each lane's centroids so far.
struct Nearest {
  F32 value;
  I32 code;
};

// Compares Rows rows with Vectors vectors of one pack: w [dim][64] and norms, both from the first
// of these centroids on, which is number `code`.
template <int64_t Rows, int64_t Vectors>
SA_INLINE void Tile(const float* x, int64_t dim, const float* w, const float* norms, I32 code,
                    Nearest* nearest) {
  F32 sums[Rows][Vectors] = {};
  for (int64_t i = 0; i < dim; ++i) {
    F32 weights[Vectors];
    SA_UNROLL
    for (int64_t v = 0; v < Vectors; ++v) weights[v] = Load(w + i * kPackedCentroids + v * kLanes);
    SA_UNROLL
    for (int64_t r = 0; r < Rows; ++r) {
      const float value = x[r * dim + i];
      SA_UNROLL
      for (int64_t v = 0; v < Vectors; ++v) sums[r][v] += value * weights[v];
    }
  }
  SA_UNROLL
  for (int64_t v = 0; v < Vectors; ++v) {
    const F32 norm = Load(norms + v * kLanes);
    SA_UNROLL
    for (int64_t r = 0; r < Rows; ++r) {
      const F32 distance = sums[r][v] + norm;
      // What is not a number is never nearer.
      const I32 nearer = distance < nearest[r].value;
      nearest[r].value = nearer ? distance : nearest[r].value;
      nearest[r].code = nearer ? code : nearest[r].code;
    }
    code += kLanes;
  }
}

// All centroids, for Rows rows.
template <int64_t Rows>
SA_INLINE void NearestOfRows(const float* x, int64_t dim, const float* packed, int64_t clusters,
                             Nearest* nearest) {
  I32 lanes = {};
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  for (int64_t r = 0; r < Rows; ++r) nearest[r] = {Set(kInfinity), I32{}};
  for (int64_t first = 0; first < clusters; first += kPackedCentroids) {
    const float* const norms = packed + first * (dim + 1);
    const float* const w = norms + kPackedCentroids;
    const int64_t rest = (clusters - first + kLanes - 1) / kLanes;
    const int64_t vectors = rest < kVectorsOfPack ? rest : kVectorsOfPack;
    const I32 code = lanes + static_cast<int32_t>(first);
    int64_t v = 0;
    for (; v + kVectors <= vectors; v += kVectors) {
      Tile<Rows, kVectors>(x, dim, w + v * kLanes, norms + v * kLanes,
                           code + static_cast<int32_t>(v * kLanes), nearest);
    }
    for (; v < vectors; ++v) {
      Tile<Rows, 1>(x, dim, w + v * kLanes, norms + v * kLanes,
                    code + static_cast<int32_t>(v * kLanes), nearest);
    }
  }
}

// The least of all lanes, the lowest code of equal ones.
SA_INLINE void Reduce(const Nearest& nearest, float* value, int32_t* code) {
#if defined(SA_AVX512)
  const __m512 values = reinterpret_cast<__m512>(nearest.value);
  *value = _mm512_reduce_min_ps(values);
  const __mmask16 least = _mm512_cmp_ps_mask(values, _mm512_set1_ps(*value), _CMP_EQ_OQ);
  *code = _mm512_mask_reduce_min_epi32(least, reinterpret_cast<__m512i>(nearest.code));
#else
  *value = nearest.value[0];
  *code = nearest.code[0];
  for (int i = 1; i < kLanes; ++i) {
    const bool nearer =
        nearest.value[i] < *value || (nearest.value[i] == *value && nearest.code[i] < *code);
    *value = nearer ? nearest.value[i] : *value;
    *code = nearer ? nearest.code[i] : *code;
  }
#endif
}

// Fused operations halve the work but give other last bits. They decide where the nearest centroid
// leads by more than both ways of adding can differ; the other rows are searched again.
#if defined(SA_AVX512) || defined(SA_AVX2) || defined(SA_NEON)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// Distances of Rows rows from the centroids of one pack, [Rows][64].
template <int64_t Rows>
SA_INLINE void FusedDistances(const float* x, int64_t dim, const float* packed, float* distances) {
  for (int64_t first = 0; first < kVectorsOfPack; first += kVectors) {
    const float* const norms = packed + first * kLanes;
    const float* const w = norms + kPackedCentroids;
    F32 sums[Rows][kVectors] = {};
    for (int64_t i = 0; i < dim; ++i) {
      F32 weights[kVectors];
      SA_UNROLL
      for (int64_t v = 0; v < kVectors; ++v) {
        weights[v] = Load(w + i * kPackedCentroids + v * kLanes);
      }
      SA_UNROLL
      for (int64_t r = 0; r < Rows; ++r) {
        const F32 value = Set(x[r * dim + i]);
        SA_UNROLL
        for (int64_t v = 0; v < kVectors; ++v) sums[r][v] = MulAdd(value, weights[v], sums[r][v]);
      }
    }
    SA_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      const F32 norm = Load(norms + v * kLanes);
      SA_UNROLL
      for (int64_t r = 0; r < Rows; ++r) {
        Store(sums[r][v] + norm, distances + r * kPackedCentroids + (first + v) * kLanes);
      }
    }
  }
}

// The only centroid whose distance is at most `margin` above the least, or -1.
SA_INLINE int32_t Leader(const float* distances, float margin) {
  F32 least = Load(distances);
  SA_UNROLL
  for (int64_t v = 1; v < kVectorsOfPack; ++v) least = Min(Load(distances + v * kLanes), least);
#if defined(SA_AVX512)
  const F32 limit = Set(_mm512_reduce_min_ps(reinterpret_cast<__m512>(least)) + margin);
#else
  float lane = least[0];
  for (int i = 1; i < kLanes; ++i) lane = lane < least[i] ? lane : least[i];
  const F32 limit = Set(lane + margin);
#endif
  uint64_t near = 0;
  SA_UNROLL
  for (int64_t v = 0; v < kVectorsOfPack; ++v) {
    const F32 distance = Load(distances + v * kLanes);
#if defined(SA_AVX512)
    const uint64_t part = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(distance),
                                             reinterpret_cast<__m512>(limit), _CMP_LE_OQ);
#else
    const uint64_t part = LaneBits(distance <= limit);
#endif
    near |= part << (v * kLanes);
  }
  return near != 0 && (near & (near - 1)) == 0 ? __builtin_ctzll(near) : -1;
}

// How far the distances of both ways may differ, twice: by Higham's bound for sums of `dim`
// products and the addition of the norm, |x| |w| (dim + 1) 2^-24 each, rounded up. Of a row of
// length 1 and of length 0.
struct Margin {
  float of_length, least;
  float Of(float length) const { return of_length * length + least; }
};
SA_INLINE Margin MarginOf(const float* packed, int64_t clusters, int64_t dim) {
  float norm = 0;  // of the longest centroid
  for (int64_t c = 0; c < clusters; ++c) norm = packed[c] > norm ? packed[c] : norm;
  const float factor = static_cast<float>(dim + 4) * 0x1p-21f;
  return {factor * 2 * __builtin_sqrtf(norm), factor * norm + 0x1p-100f};
}

SA_INLINE void AddRow(const float* x, int64_t dim, double* sums) {
  constexpr int64_t kHalf = kLanes / 2;
  int64_t i = 0;
  for (; i + kHalf <= dim; i += kHalf) {
    F32Half values;
    F64 sum;
    std::memcpy(&values, x + i, sizeof(values));
    std::memcpy(&sum, sums + i, sizeof(sum));
    sum += __builtin_convertvector(values, F64);
    std::memcpy(sums + i, &sum, sizeof(sum));
  }
  for (; i < dim; ++i) sums[i] += static_cast<double>(x[i]);
}

// What becomes of the row that is number r of the block.
SA_INLINE int64_t SetRow(const NearestParams& p, int64_t begin, int64_t r, float value,
                         int32_t code) {
  const int64_t row = begin + r, dim = p.x.dim();
  code += p.first_code;
  if (p.keep_nearer && !(value < p.values[row])) {
    value = p.values[row];
    code = p.codes[row];
  }
  const bool changed = p.codes[row] != code;
  p.codes[row] = code;
  if (p.values != nullptr) p.values[row] = value;
  if (p.sums != nullptr && (p.counted == nullptr || p.counted[row] != 0)) {
    AddRow(p.block + r * dim, dim, p.sums + code * dim);
    ++p.counts[code];
  }
  return changed;
}

template <int64_t Rows>
SA_INLINE int64_t SetNearest(const NearestParams& p, int64_t begin, int64_t r) {
  const int64_t dim = p.x.dim();
  Nearest nearest[Rows];
  NearestOfRows<Rows>(p.block + r * dim, dim, p.packed, p.clusters, nearest);
  int64_t changed = 0;
  for (int64_t i = 0; i < Rows; ++i) {
    float value;
    int32_t code;
    Reduce(nearest[i], &value, &code);
    changed += SetRow(p, begin, r + i, value, code);
  }
  return changed;
}

// The rows that the next block needs while this one needs the same of its own.
SA_INLINE void PrefetchRows(const VectorRows& x, int64_t first) {
  for (int64_t row = first; row < first + kRows && row < x.rows; ++row) {
    const char* const data = static_cast<const char*>(x.data) + row * x.row_stride;
    for (int64_t byte = 0; byte < x.channels * ElementBytes(x.element); byte += 64) {
      PrefetchL1(data + byte);
    }
  }
}

int64_t FindNearest(const NearestParams& p) {
  const int64_t dim = p.x.dim();
  const bool fused = kFused && p.lengths != nullptr && p.clusters <= kPackedCentroids;
  const Margin margin = fused ? MarginOf(p.packed, p.clusters, dim) : Margin{0, 0};
  int64_t changed = 0;
  for (int64_t begin = 0; begin < p.x.rows; begin += kRowBlock) {
    const int64_t count = p.x.rows - begin < kRowBlock ? p.x.rows - begin : kRowBlock;
    LoadBlock(p.x, begin, count, p.block);
    int64_t r = 0;
    for (; r + kRows <= count; r += kRows) {
      PrefetchRows(p.x, begin + kRowBlock + r);
      if (!fused) {
        changed += SetNearest<kRows>(p, begin, r);
        continue;
      }
      alignas(64) float distances[kRows * kPackedCentroids];
      FusedDistances<kRows>(p.block + r * dim, dim, p.packed, distances);
      for (int64_t i = 0; i < kRows; ++i) {
        const int32_t code =
            Leader(distances + i * kPackedCentroids, margin.Of(p.lengths[begin + r + i]));
        changed += code >= 0 ? SetRow(p, begin, r + i, 0, code) : SetNearest<1>(p, begin, r + i);
      }
    }
    for (; r < count; ++r) changed += SetNearest<1>(p, begin, r);
  }
  return changed;
}

void Norms(const VectorRows& x, float* block, float* norms) {
  const int64_t dim = x.dim();
  for (int64_t begin = 0; begin < x.rows; begin += kRowBlock) {
    const int64_t count = x.rows - begin < kRowBlock ? x.rows - begin : kRowBlock;
    LoadBlock(x, begin, count, block);
    // Rows side by side: the additions of one wait for one another.
    for (int64_t first = 0; first < count; first += 8) {
      const int64_t rows = count - first < 8 ? count - first : 8;
      float sums[8] = {};
      for (int64_t i = 0; i < dim; ++i) {
        for (int64_t r = 0; r < rows; ++r) {
          const float value = block[(first + r) * dim + i];
          sums[r] += value * value;
        }
      }
      for (int64_t r = 0; r < rows; ++r) norms[begin + first + r] = sums[r];
    }
  }
}

template <typename T>
SA_INLINE void FiniteRows(const VectorRows& x, uint8_t* finite) {
  for (int64_t j = 0; j < x.rows; ++j) {
    const T* const row =
        reinterpret_cast<const T*>(static_cast<const char*>(x.data) + j * x.row_stride);
    I32 bad = {};
    for (int64_t i = 0; i < x.channels; i += kLanes) {
      const int count = static_cast<int>(x.channels - i < kLanes ? x.channels - i : kLanes);
      const F32 value = count == kLanes ? LoadFloats(row + i) : LoadFirst(row + i, count);
      bad |= (reinterpret_cast<U32>(value) & 0x7F800000) == 0x7F800000;
    }
    int32_t any = 0;
    for (int i = 0; i < kLanes; ++i) any |= bad[i];
    finite[j] = any == 0;
  }
}

void Finite(const VectorRows& x, uint8_t* finite) {
  switch (x.element) {
    case Element::kFloat32:
      return FiniteRows<float>(x, finite);
    case Element::kFloat16:
      return FiniteRows<Float16>(x, finite);
    case Element::kBFloat16:
      return FiniteRows<BFloat16>(x, finite);
  }
}

}  // namespace

KMeansKernels MakeKMeansKernels() { return {FindNearest, Norms, Finite}; }

}  // namespace sparse_attention::cpu::SA_ISA
