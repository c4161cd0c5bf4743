#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Element, EveryShortNumberComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    if (std::isnan(ToFloat(half))) {
      EXPECT_TRUE(std::isnan(ToFloat(ToFloat16(ToFloat(half)))));
    } else {
      EXPECT_EQ(ToFloat16(ToFloat(half)).bits, half.bits);
    }
    if (std::isnan(ToFloat(brain))) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(ToFloat(brain)))));
    } else {
      EXPECT_EQ(ToBFloat16(ToFloat(brain)).bits, brain.bits);
    }
  }
}

TEST(Element, KnownHalves) {
  EXPECT_EQ(ToFloat(Float16{0x3C00}), 1.0f);
  EXPECT_EQ(ToFloat(Float16{0xC000}), -2.0f);
  EXPECT_EQ(ToFloat(Float16{0x7BFF}), 65504.0f);
  EXPECT_EQ(ToFloat(Float16{0x0001}), 0x1p-24f);
  EXPECT_EQ(ToFloat(Float16{0x7C00}), kInfinity);
}

// The nearest of two neighbours, the even one where both are as near.
TEST(Element, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const float low = ToFloat(Float16{static_cast<uint16_t>(bits)});
    const float high =
        bits + 1 < 0x7C00 ? ToFloat(Float16{static_cast<uint16_t>(bits + 1)}) : 65536.0f;
    const float middle = 0.5f * low + 0.5f * high;
    const uint16_t even = static_cast<uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(ToFloat16(middle).bits, even) << low;
    EXPECT_EQ(ToFloat16(std::nextafter(middle, 0.0f)).bits, bits);
    EXPECT_EQ(ToFloat16(std::nextafter(middle, kInfinity)).bits, bits + 1);
    EXPECT_EQ(ToFloat16(-middle).bits, even | 0x8000);
  }
  for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
    const float low = ToFloat(BFloat16{static_cast<uint16_t>(bits)});
    const float high = ToFloat(BFloat16{static_cast<uint16_t>(bits + 1)});
    const float middle = 0.5f * low + 0.5f * high;
    EXPECT_EQ(ToBFloat16(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(ToBFloat16(std::nextafter(middle, kInfinity)).bits, bits + 1);
  }
}

TEST(Element, ByIndex) {
  float wide[2] = {1, 2};
  uint16_t half[2] = {}, brain[2] = {};
  for (int i = 0; i < 2; ++i) {
    SetElement(half, Element::kFloat16, i, wide[i]);
    SetElement(brain, Element::kBFloat16, i, wide[i]);
    EXPECT_EQ(ElementAt(wide, Element::kFloat32, i), wide[i]);
    EXPECT_EQ(ElementAt(half, Element::kFloat16, i), wide[i]);
    EXPECT_EQ(ElementAt(brain, Element::kBFloat16, i), wide[i]);
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
