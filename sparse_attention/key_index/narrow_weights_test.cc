#include "sparse_attention/key_index/narrow_weights.h"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void ExpectHeldBy(Element element, const std::vector<float>& values) {
  const NarrowWeights weights(values);
  ASSERT_EQ(weights.element(), element);
  for (size_t i = 0; i < values.size(); ++i) {
    const float held = ElementAt(weights.data(), element, static_cast<int64_t>(i));
    EXPECT_EQ(std::bit_cast<uint32_t>(held), std::bit_cast<uint32_t>(values[i])) << values[i];
  }
}

TEST(NarrowWeights, AreTheSameNumbers) {
  ExpectHeldBy(Element::kBFloat16, {});
  ExpectHeldBy(Element::kBFloat16, {1, -0.f, 0x1.02p90f, -0x1p-130f, kInfinity, std::nanf("")});
  ExpectHeldBy(Element::kFloat16, {1, -0.f, 0x1.004p3f, 65504, 0x1p-24f, -kInfinity});
  // One number decides.
  ExpectHeldBy(Element::kFloat32, {1, 2, 0x1.000002p0f});
  ExpectHeldBy(Element::kFloat32, {0x1.004p3f, 0x1p90f});
  ExpectHeldBy(Element::kFloat32, {0x1.004p3f, 0x1.8p-24f});
}

TEST(NarrowWeights, WhatOnlyFloat32HoldsIsNotCopied) {
  const std::vector<float> values = {0x1.000002p0f};
  EXPECT_EQ(NarrowWeights(values).data(), values.data());
}

}  // namespace
}  // namespace sparse_attention::cpu
