#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/key_index/page_bounds.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

template <typename T>
SA_INLINE const T* RowOf(const KeyRows& keys, int64_t j) {
  return reinterpret_cast<const T*>(static_cast<const char*>(keys.data) + j * keys.row_stride);
}

template <typename T>
SA_INLINE F32 LoadUpTo(const T* p, int64_t count) {
  return count >= kLanes ? LoadFloats(p) : LoadFirst(p, static_cast<int>(count));
}

template <typename T>
SA_INLINE bool Finite(const T* row, int64_t dim) {
  U32 most = {};  // the largest exponent
  for (int64_t i = 0; i < dim; i += kLanes) {
    const U32 exponent = reinterpret_cast<U32>(LoadUpTo(row + i, dim - i)) & 0x7F800000;
    most = exponent > most ? exponent : most;
  }
  return MaxLanes(reinterpret_cast<F32>(most)) < kInfinity;
}

template <typename T>
SA_INLINE void BoundsOf(const KeyRows& page, int64_t dim, float* low, float* high) {
  bool first = true;
  for (int64_t j = 0; j < page.rows; ++j) {
    const T* const row = RowOf<T>(page, j);
    if (!Finite(row, dim)) continue;
    for (int64_t i = 0; i < dim; i += kLanes) {
      const int count = static_cast<int>(dim - i < kLanes ? dim - i : kLanes);
      const F32 value = LoadUpTo(row + i, dim - i);
      F32 least = value, most = value;
      if (!first) {
        least = Min(value, LoadUpTo(low + i, dim - i));
        most = Max(value, LoadUpTo(high + i, dim - i));
      }
      if (count == kLanes) {
        Store(least, low + i);
        Store(most, high + i);
      } else {
        StoreFirst(least, low + i, count);
        StoreFirst(most, high + i, count);
      }
    }
    first = false;
  }
  if (first) {
    for (int64_t i = 0; i < dim; ++i) low[i] = high[i] = 0;
  }
}

void Bounds(const KeyRows& page, int64_t dim, float* low, float* high) {
  switch (page.element) {
    case Element::kFloat32:
      return BoundsOf<float>(page, dim, low, high);
    case Element::kFloat16:
      return BoundsOf<Float16>(page, dim, low, high);
    case Element::kBFloat16:
      return BoundsOf<BFloat16>(page, dim, low, high);
  }
}

}  // namespace

PageExtremesKernels MakePageExtremesKernels() { return {Bounds}; }

}  // namespace sparse_attention::cpu::SA_ISA
