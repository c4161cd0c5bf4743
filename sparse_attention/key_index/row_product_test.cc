#include "sparse_attention/key_index/row_product.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kGuard = -77;

class RowProductTest : public IsaTest {
 protected:
  RowProductKernels kernels() const { return RowProductKernelsFor(GetParam()); }
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Below(int64_t bound) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(bound));
  }
  float Normal() { return normal_(engine_); }
  std::vector<float> Normals(int64_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = Normal();
    return values;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// The same bits as plain loops, for weights of all elements as they are and float32 ones in tiles,
// with buffers that end where they may be read.
TEST_P(RowProductTest, AddsOneAfterTheOther) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const int64_t in = seed % 20 == 0 ? 512 : random.Below(140), out = random.Below(200),
                  rows = random.Below(45);
    const int64_t x_stride = in + (seed % 20 == 0 ? 0 : random.Below(3)),
                  out_stride = out + random.Below(3);
    const int64_t offset = random.Below(3);
    const std::vector<float> x =
        random.Normals(offset + (rows == 0 ? 0 : (rows - 1) * x_stride + in));
    std::vector<float> w = random.Normals(offset + in * out);
    const std::vector<float> bias = random.Normals(out);
    const auto element = static_cast<Element>(random.Below(3));
    std::vector<char> plain(w.size() * ElementBytes(element));
    for (size_t i = 0; i < w.size(); ++i) {
      SetElement(plain.data(), element, static_cast<int64_t>(i), w[i]);
      w[i] = ElementAt(plain.data(), element, static_cast<int64_t>(i));
    }
    std::vector<float> tiled(TiledFloats(in, out));
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t c = 0; c < out; ++c) {
        tiled[c / kTileColumns * in * kTileColumns + i * kTileColumns + c % kTileColumns] =
            w[offset + i * out + c];
      }
    }
    for (bool with_tiles : {false, true}) {
      std::vector<float> result(offset + rows * out_stride + 1, kGuard);
      const float* const added = seed % 2 == 0 ? bias.data() : nullptr;
      kernels().multiply(x.data() + offset, rows, x_stride,
                         with_tiles ? TiledWeights(tiled.data(), in, out)
                                    : PlainWeights(plain.data() + offset * ElementBytes(element),
                                                   in, out, element),
                         added, result.data() + offset, out_stride);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < out_stride; ++c) {
          float expected = c < out ? 0 : kGuard;
          for (int64_t i = 0; i < in && c < out; ++i) {
            expected += x[offset + r * x_stride + i] * w[offset + i * out + c];
          }
          if (added != nullptr && c < out) expected += bias[c];
          ASSERT_EQ(result[offset + r * out_stride + c], expected) << r << ", " << c;
        }
      }
      EXPECT_EQ(result.back(), kGuard);
    }
  }
}

double Exact(RowActivation activation, double x) {
  switch (activation) {
    case RowActivation::kRelu:
      return x < 0 ? 0 : x;
    case RowActivation::kSilu:
      return x / (1 + std::exp(-x));
    case RowActivation::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case RowActivation::kTanh:
      return std::tanh(x);
  }
  return 0;
}

constexpr RowActivation kActivations[] = {RowActivation::kRelu, RowActivation::kSilu,
                                          RowActivation::kGelu, RowActivation::kTanh};

TEST_P(RowProductTest, ActivationsAreAccurateAndTheSameEverywhere) {
  std::vector<float> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) * 0.031f);
  for (float tiny = 1; tiny > 1e-44f; tiny *= 0.83f) {
    x.push_back(tiny);
    x.push_back(-tiny);
  }
  for (float value : {0.f, -0.f, 1e30f, -1e30f, 3.4e38f, -3.4e38f}) x.push_back(value);
  for (RowActivation activation : kActivations) {
    CountCase(GetParam());
    std::vector<float> y = x, plain = x;
    kernels().activate(activation, y.data(), static_cast<int64_t>(y.size()));
    RowProductKernelsFor(Isa::kGeneric)
        .activate(activation, plain.data(), static_cast<int64_t>(y.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(plain[i])) << x[i];
      const double exact = Exact(activation, double{x[i]});
      const float nearest = static_cast<float>(exact);
      // One unit in the last place, of the least normal number at least.
      const double unit =
          std::max(double{std::nextafter(std::abs(nearest), INFINITY)} - std::abs(double{nearest}),
                   0x1p-149);
      ASSERT_LE(std::abs(y[i] - exact), unit) << x[i] << " by " << static_cast<int>(activation);
    }
  }
}

TEST_P(RowProductTest, ActivationsOfWhatIsNotFinite) {
  for (RowActivation activation : kActivations) {
    CountCase(GetParam());
    float x[] = {NAN, INFINITY, -INFINITY, kGuard};
    kernels().activate(activation, x, 3);
    EXPECT_TRUE(std::isnan(x[0]));
    EXPECT_EQ(x[1], activation == RowActivation::kTanh ? 1 : INFINITY);
    EXPECT_EQ(x[2], activation == RowActivation::kTanh ? -1 : 0);
    EXPECT_EQ(x[3], kGuard);
  }
}

// A value's result does not depend on where it stands.
TEST_P(RowProductTest, ActivationsOfAnyLength) {
  Random random(5);
  const std::vector<float> x = random.Normals(40);
  for (RowActivation activation : kActivations) {
    std::vector<float> whole = x;
    kernels().activate(activation, whole.data(), 40);
    for (int64_t n = 0; n < 40; ++n) {
      CountCase(GetParam());
      std::vector<float> part(x.begin() + (39 - n), x.end());
      part[n] = kGuard;
      kernels().activate(activation, part.data(), n);
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(part[i], whole[39 - n + i]);
      ASSERT_EQ(part[n], kGuard);
    }
  }
}

TEST_P(RowProductTest, Signs) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    Random random(seed);
    const int64_t n = random.Below(200);
    std::vector<float> x = random.Normals(n);
    for (float& value : x) {
      constexpr float kOdd[] = {0, -0.f, NAN, INFINITY, -INFINITY, 1e-45f, -1e-45f};
      if (random.Below(3) == 0) value = kOdd[random.Below(7)];
    }
    for (bool zero_is_one : {false, true}) {
      const int64_t count = (n + 63) / 64;
      std::vector<uint64_t> words(count + 1, 77);
      kernels().signs(x.data(), n, zero_is_one, words.data());
      for (int64_t i = 0; i < 64 * count; ++i) {
        const bool expected = i < n && (x[i] > 0 || (zero_is_one && x[i] == 0));
        ASSERT_EQ(words[i / 64] >> (i % 64) & 1, expected ? 1u : 0u) << i;
      }
      EXPECT_EQ(words[count], 77u);
    }
  }
}

TEST_P(RowProductTest, Widens) {
  for (Element element : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
    for (int64_t n = 0; n < 70; ++n) {
      CountCase(GetParam());
      Random random(static_cast<uint64_t>(n));
      std::vector<char> data(n * ElementBytes(element));
      for (int64_t i = 0; i < n; ++i) SetElement(data.data(), element, i, random.Normal());
      std::vector<float> out(n + 1, kGuard);
      kernels().widen(data.data(), element, n, out.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(out[i], ElementAt(data.data(), element, i));
      EXPECT_EQ(out[n], kGuard);
    }
  }
}

SA_INSTANTIATE_ISAS(RowProductTest);

}  // namespace
}  // namespace sparse_attention::cpu
