#include "sparse_attention/key_index/hash_core.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kRows = 32;  // hashed at a time

// Sign bits of a row, and a word to read beyond them.
int64_t SignWords(const HashPlanes& planes) { return (planes.tables * planes.bits + 63) / 64 + 1; }

uint64_t BitsAt(const uint64_t* words, int64_t first, int64_t count) {
  const uint64_t* const word = words + first / 64;
  const int64_t shift = first % 64;
  uint64_t bits = word[0] >> shift;
  if (shift != 0) bits |= word[1] << (64 - shift);
  return count == 64 ? bits : bits & ((uint64_t{1} << count) - 1);
}

}  // namespace

void PackPlanes(const float* planes, int64_t tables, int64_t bits, int64_t dim, bool highest_first,
                float* packed) {
  std::fill_n(packed, PackedPlaneFloats(tables, bits, dim), 0.f);
  for (int64_t column = 0; column < tables * bits; ++column) {
    const int64_t bit = column % bits;
    const float* const plane =
        planes + (column - bit + (highest_first ? bits - 1 - bit : bit)) * dim;
    float* const out = packed + column / kTileColumns * kTileColumns * dim + column % kTileColumns;
    for (int64_t i = 0; i < dim; ++i) out[i * kTileColumns] = plane[i];
  }
}

int64_t HashScratchFloats(const HashPlanes& planes) {
  return kRows * planes.tables * planes.bits + 2 * kRows * SignWords(planes) + 2;
}

template <typename Bucket>
void HashRows(const HashPlanes& planes, const float* x, int64_t rows, Isa isa, float* scratch,
              Bucket* buckets, int64_t table_stride, int64_t row_stride) {
  const RowProductKernels kernels = RowProductKernelsFor(isa);
  const int64_t columns = planes.tables * planes.bits, words = SignWords(planes);
  // Words first, at 8-byte steps.
  uint64_t* const signs =
      reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(scratch) + 7) / 8 * 8);
  float* const sides = reinterpret_cast<float*>(signs + kRows * words);
  const Weights weights = TiledWeights(planes.packed, planes.dim, columns);
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const int64_t count = std::min(kRows, rows - begin);
    kernels.multiply(x + begin * planes.dim, count, planes.dim, weights, nullptr, sides, columns);
    for (int64_t j = 0; j < count; ++j) {
      kernels.signs(sides + j * columns, columns, planes.zero_is_one, signs + j * words);
      signs[(j + 1) * words - 1] = 0;
    }
    for (int64_t t = 0; t < planes.tables; ++t) {
      Bucket* const out = buckets + t * table_stride + begin * row_stride;
      for (int64_t j = 0; j < count; ++j) {
        out[j * row_stride] =
            static_cast<Bucket>(BitsAt(signs + j * words, t * planes.bits, planes.bits));
      }
    }
  }
}

template void HashRows(const HashPlanes&, const float*, int64_t, Isa, float*, uint8_t*, int64_t,
                       int64_t);
template void HashRows(const HashPlanes&, const float*, int64_t, Isa, float*, int16_t*, int64_t,
                       int64_t);
template void HashRows(const HashPlanes&, const float*, int64_t, Isa, float*, int32_t*, int64_t,
                       int64_t);
template void HashRows(const HashPlanes&, const float*, int64_t, Isa, float*, int64_t*, int64_t,
                       int64_t);

double CollisionProbability(double cosine, int64_t bits, int64_t tables) {
  double power = 1 - std::acos(std::clamp(cosine, -1.0, 1.0)) / std::numbers::pi;
  double in_table = 1;
  for (int64_t left = bits; left > 0; left >>= 1, power *= power) {
    if ((left & 1) != 0) in_table *= power;
  }
  // Of any of m + n tables: a + b - a b. Nothing cancels where it is tiny.
  double any = 0, of_some = in_table;
  for (int64_t left = tables; left > 0; left >>= 1, of_some += of_some * (1 - of_some)) {
    if ((left & 1) != 0) any += of_some * (1 - any);
  }
  return any;
}

}  // namespace sparse_attention::cpu
