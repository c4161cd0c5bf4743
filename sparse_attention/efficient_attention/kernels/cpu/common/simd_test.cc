#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/simd_probe.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SimdTest : public IsaTest {
 protected:
  const SimdProbe probe_ = SA_CHOOSE_ISA(GetParam(), MakeSimdProbe());
};
SA_INSTANTIATE_ISAS(SimdTest);

TEST_P(SimdTest, ExpIsExactToThreeUnits) {
  CountCase(GetParam());
  std::vector<float> x;
  for (double v = -87.3; v <= 88; v += 1e-3) x.push_back(static_cast<float>(v));
  std::vector<float> out(x.size());
  probe_.exp(x.data(), static_cast<int64_t>(x.size()), out.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    worst = std::max(worst, std::abs(out[i] - exact) / exact);
  }
  EXPECT_LT(worst, 3 * 0x1p-24);
}

TEST_P(SimdTest, ExpOfTheEnds) {
  CountCase(GetParam());
  const std::vector<float> x = {-kInfinity, -1e30f, -88, 0, -0.0f, std::nanf("")};
  std::vector<float> out(x.size());
  probe_.exp(x.data(), static_cast<int64_t>(x.size()), out.data());
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(out[1], 0);
  EXPECT_EQ(out[2], 0);
  EXPECT_EQ(out[3], 1);
  EXPECT_EQ(out[4], 1);
  EXPECT_TRUE(std::isnan(out[5]));
}

TEST_P(SimdTest, ShortFloatsWidenExactly) {
  CountCase(GetParam());
  std::vector<Float16> half(0x10000);
  std::vector<BFloat16> brain(0x10000);
  for (uint32_t i = 0; i < 0x10000; ++i) {
    half[i].bits = static_cast<uint16_t>(i);
    brain[i].bits = static_cast<uint16_t>(i);
  }
  std::vector<float> of_half(0x10000), of_brain(0x10000);
  // One less than all, so that the last vector is a part.
  probe_.from_half(half.data(), 0xFFFF, of_half.data());
  probe_.from_brain(brain.data(), 0xFFFF, of_brain.data());
  for (uint32_t i = 0; i < 0xFFFF; ++i) {
    const float h = ToFloat(half[i]), b = ToFloat(brain[i]);
    EXPECT_TRUE(std::isnan(h) ? std::isnan(of_half[i]) : of_half[i] == h) << i;
    EXPECT_TRUE(std::isnan(b) ? std::isnan(of_brain[i]) : of_brain[i] == b) << i;
  }
}

TEST_P(SimdTest, FloatsRoundToShortOnesAsOneByOne) {
  CountCase(GetParam());
  // Every sign, exponent and half of a step between neighbours, and what lies beside them.
  std::vector<float> x;
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (uint32_t low : {0u, 1u, 0x0FFFu, 0x1000u, 0x1001u, 0x7FFFu, 0x8000u, 0x8001u, 0xF000u}) {
      x.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  const int64_t n = static_cast<int64_t>(x.size()) - 1;  // so that the last vector is a part
  std::vector<Float16> half(x.size(), Float16{0x1234});
  std::vector<BFloat16> brain(x.size(), BFloat16{0x1234});
  probe_.to_half(x.data(), n, half.data());
  probe_.to_brain(x.data(), n, brain.data());
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(x[i])) {
      ASSERT_TRUE(std::isnan(ToFloat(half[i])) && std::isnan(ToFloat(brain[i]))) << i;
    } else {
      ASSERT_EQ(half[i].bits, ToFloat16(x[i]).bits) << x[i];
      ASSERT_EQ(brain[i].bits, ToBFloat16(x[i]).bits) << x[i];
    }
  }
  EXPECT_EQ(half[n].bits, 0x1234);
  EXPECT_EQ(brain[n].bits, 0x1234);
}

TEST_P(SimdTest, MinimaAndBitsOfLanes) {
  CountCase(GetParam());
  for (int bit = 0; bit < 64; ++bit) {
    std::vector<float> x(64, -1), y(64, 0.5f), out(64);
    x[static_cast<size_t>(bit)] = 2;
    EXPECT_EQ(probe_.positive(x.data()), uint64_t{1} << bit);
    probe_.min(x.data(), y.data(), 64, out.data());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], i == bit ? 0.5f : -1);
    EXPECT_EQ(probe_.positive(y.data()), ~uint64_t{0});
  }
}

TEST_P(SimdTest, SumsAndMaximaOfLanes) {
  CountCase(GetParam());
  for (int64_t n = 1; n < 70; ++n) {
    std::vector<float> x(n);
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>((i * 37) % n) - 20;
    float sum = 0, most = -kInfinity;
    for (float v : x) {
      sum += v;
      most = std::max(most, v);
    }
    EXPECT_EQ(probe_.sum(x.data(), n), sum);  // whole numbers: exact in any order
    EXPECT_EQ(probe_.max(x.data(), n), most);
  }
}

TEST(Isa, TheBestIsSupportedAndNamed) {
  EXPECT_THAT(SupportedIsas(), ::testing::Contains(BestIsa()));
  EXPECT_EQ(SupportedIsas().front(), Isa::kGeneric);
  for (size_t i = 1; i < SupportedIsas().size(); ++i) {
    EXPECT_LT(SupportedIsas()[i - 1], SupportedIsas()[i]);
  }
}

TEST(IsaDeathTest, AnUnknownNameEndsTheProcess) {
  // GoogleTest runs death tests first: no other has made BestIsa choose. An emulator forks, but
  // cannot start its program anew, as the other style does.
  ::testing::GTEST_FLAG(death_test_style) = "fast";
  setenv("SA_ISA", "sse9", 1);
  EXPECT_EXIT(BestIsa(), ::testing::ExitedWithCode(2), "SA_ISA must be one of .*got sse9");
  unsetenv("SA_ISA");
}

}  // namespace
}  // namespace sparse_attention::cpu
