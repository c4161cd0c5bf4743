// Element types of keys and values, and their conversion one by one.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ELEMENT_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ELEMENT_H_

#include <bit>
#include <cstdint>
#include <cstring>

namespace sparse_attention::cpu {

enum class Element : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

constexpr int64_t ElementBytes(Element element) { return element == Element::kFloat32 ? 4 : 2; }

// The stored form of an element: bits, for the two short types.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float ToFloat(float x) { return x; }
inline float ToFloat(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline float ToFloat(Float16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1Fu, mantissa = x.bits & 0x3FFu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline BFloat16 ToBFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}
inline Float16 ToFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // rounds to inf
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at 2^-24
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3F000000u))};
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13))};
}

// `row` points to elements of type `element`.
inline float ElementAt(const void* row, Element element, int64_t i) {
  switch (element) {
    case Element::kFloat32:
      return static_cast<const float*>(row)[i];
    case Element::kFloat16:
      return ToFloat(static_cast<const Float16*>(row)[i]);
    case Element::kBFloat16:
      return ToFloat(static_cast<const BFloat16*>(row)[i]);
  }
  return 0;
}
inline void SetElement(void* row, Element element, int64_t i, float value) {
  switch (element) {
    case Element::kFloat32:
      static_cast<float*>(row)[i] = value;
      break;
    case Element::kFloat16:
      static_cast<Float16*>(row)[i] = ToFloat16(value);
      break;
    case Element::kBFloat16:
      static_cast<BFloat16*>(row)[i] = ToBFloat16(value);
      break;
  }
}

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ELEMENT_H_
