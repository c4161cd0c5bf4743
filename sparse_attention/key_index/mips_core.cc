#include "sparse_attention/key_index/mips_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention::cpu {
namespace {

bool AllFinite(const float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t infinite = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof(bits));
    infinite |= static_cast<uint32_t>((bits & kExponent) == kExponent);
  }
  return infinite == 0;
}

// The sum of term(i), i < n, in eight sums side by side.
template <typename Term>
float SumOf(int64_t n, const Term& term) {
  float sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) sums[lane] += term(i + lane);
  }
  for (; i < n; ++i) sums[i % 8] += term(i);
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// Calls use(row) for the finite ones of keys [begin, end), as floats in `row`[dim].
template <typename Use>
void ForEachFinite(const MipsKeys& keys, int64_t begin, int64_t end, Isa isa, float* row,
                   const Use& use) {
  const RowProductKernels kernels = RowProductKernelsFor(isa);
  for (int64_t key = begin; key < end; ++key) {
    kernels.widen(keys.rows.Row(key), keys.element, keys.dim, row);
    if (AllFinite(row, keys.dim)) use(row);
  }
}

}  // namespace

void MipsCentre(const MipsKeys& keys, int64_t begin, int64_t end, bool centred, Isa isa,
                float* scratch, float* centre) {
  std::fill_n(centre, keys.dim, 0.f);
  if (!centred) return;
  std::vector<double> sum(static_cast<size_t>(keys.dim), 0);
  double count = 0;
  ForEachFinite(keys, begin, end, isa, scratch, [&](const float* row) {
    for (int64_t i = 0; i < keys.dim; ++i) {
      sum[static_cast<size_t>(i)] += static_cast<double>(row[i]);
    }
    ++count;
  });
  if (count == 0) return;
  for (int64_t i = 0; i < keys.dim; ++i) {
    centre[i] = static_cast<float>(sum[static_cast<size_t>(i)] / count);
  }
}

float MipsDistance(const MipsKeys& keys, int64_t begin, int64_t end, const float* centre, Isa isa,
                   float* scratch) {
  float most = 0;
  ForEachFinite(keys, begin, end, isa, scratch, [&](const float* row) {
    const float distance = std::sqrt(SumOf(keys.dim, [&](int64_t i) {
      const float x = row[i] - centre[i];
      return x * x;
    }));
    if (std::isfinite(distance)) most = std::max(most, distance);
  });
  return most;
}

void MipsTransformKeys(const MipsKeys& keys, int64_t begin, int64_t end, const MipsSphere& sphere,
                       Isa isa, float* out) {
  const RowProductKernels kernels = RowProductKernelsFor(isa);
  for (int64_t key = begin; key < end; ++key, out += keys.dim + 1) {
    kernels.widen(keys.rows.Row(key), keys.element, keys.dim, out);
    for (int64_t i = 0; i < keys.dim; ++i) out[i] = (out[i] - sphere.centre[i]) / sphere.radius;
    const float squares = SumOf(keys.dim, [&](int64_t i) { return out[i] * out[i]; });
    out[keys.dim] = squares >= 1 ? 0 : std::sqrt(1 - squares);
  }
}

float VectorNorm(const float* x, int64_t n) {
  return std::sqrt(SumOf(n, [&](int64_t i) { return x[i] * x[i]; }));
}

void SumOfDirections(const float* x, int64_t vectors, int64_t n, float* sum) {
  std::fill_n(sum, n, 0.f);
  for (int64_t v = 0; v < vectors; ++v, x += n) {
    const float norm = VectorNorm(x, n);
    const float length = norm < kLeastNorm ? kLeastNorm : norm;  // NaN stays
    for (int64_t i = 0; i < n; ++i) sum[i] += x[i] / length;
  }
}

}  // namespace sparse_attention::cpu
