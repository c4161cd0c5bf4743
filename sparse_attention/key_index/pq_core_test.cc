#include "sparse_attention/key_index/pq_core.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class PqCoreTest : public IsaTest {};

// Codes of rows together, one by one and by plain loops, of every element type, width and metric.
TEST_P(PqCoreTest, CodesAreThoseOfPlainLoops) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    const auto below = [&](int64_t bound) {
      return static_cast<int64_t>(engine() % static_cast<uint64_t>(bound));
    };
    PqEncoder encoder;
    encoder.heads = 1 + below(3);
    encoder.key_dim = 1 + below(130);
    encoder.subvectors = 1 + below(std::min<int64_t>(5, encoder.key_dim));
    encoder.clusters = 1 + below(seed % 5 == 0 ? 200 : 64);
    const int64_t groups = encoder.heads * encoder.subvectors;
    std::vector<float> phi(static_cast<size_t>(groups));
    for (float& value : phi) value = static_cast<float>(below(60));
    if (seed % 2 == 0) encoder.phi = phi.data();
    const int64_t dim = encoder.dim();
    std::vector<float> centroids(groups * encoder.clusters * dim);
    for (float& value : centroids) value = normal(engine);
    std::vector<float> packed(groups * encoder.packed_floats());
    for (int64_t group = 0; group < groups; ++group) {
      PackCentroids(centroids.data() + group * encoder.clusters * dim, encoder.clusters, dim,
                    packed.data() + group * encoder.packed_floats());
    }
    encoder.packed = packed.data();

    KeyRows keys;
    keys.element = static_cast<Element>(below(3));
    keys.rows = below(150);
    const int64_t bytes = ElementBytes(keys.element);
    keys.row_stride = (encoder.key_dim + below(4)) * bytes;
    std::vector<char> data(keys.rows * keys.row_stride + bytes);
    for (int64_t i = 0; i < keys.rows * keys.row_stride / bytes; ++i) {
      SetElement(data.data() + bytes, keys.element, i, below(300) == 0 ? NAN : normal(engine));
    }
    keys.data = data.data() + bytes;

    std::vector<float> scratch(PqScratchBytes(encoder) / 4 + 1, 7.f);
    const int64_t stride = keys.rows + 1, head = below(encoder.heads);
    std::vector<int32_t> codes(encoder.subvectors * stride, -1);
    std::vector<uint8_t> short_codes(encoder.subvectors * stride, 255);
    EncodePq(encoder, head, keys, GetParam(), scratch.data(), codes.data(), stride);
    EncodePq(encoder, head, keys, GetParam(), scratch.data(), short_codes.data(), stride);
    EXPECT_EQ(scratch.back(), 7.f);
    for (int64_t s = 0; s < encoder.subvectors; ++s) {
      const int64_t group = head * encoder.subvectors + s;
      for (int64_t j = 0; j < keys.rows; ++j) {
        std::vector<float> x;
        float square = 0;
        const int64_t channels = encoder.key_dim / encoder.subvectors +
                                 (s < encoder.key_dim % encoder.subvectors ? 1 : 0);
        for (int64_t i = 0; i < encoder.width(); ++i) {
          const float value =
              i < channels ? ElementAt(static_cast<const char*>(keys.data) + j * keys.row_stride,
                                       keys.element, encoder.FirstChannel(s) + i)
                           : 0;
          x.push_back(std::isfinite(value) ? value : 0);
          square += x.back() * x.back();
        }
        if (encoder.phi != nullptr) x.push_back(std::sqrt(std::max(0.f, phi[group] - square)));
        int32_t expected = 0;
        float least = INFINITY;
        for (int32_t c = 0; c < encoder.clusters; ++c) {
          float product = 0, norm = 0;
          for (int64_t i = 0; i < dim; ++i) {
            const float centre = centroids[(group * encoder.clusters + c) * dim + i];
            product += x[i] * (-2 * centre);
            norm += centre * centre;
          }
          if (product + norm < least) {
            least = product + norm;
            expected = c;
          }
        }
        ASSERT_EQ(codes[s * stride + j], expected) << "sub-vector " << s << ", row " << j;
        ASSERT_EQ(short_codes[s * stride + j], expected);
      }
      EXPECT_EQ(codes[s * stride + keys.rows], -1);
      EXPECT_EQ(short_codes[s * stride + keys.rows], 255);
    }
    if (keys.rows > 0) {
      KeyRows last = keys;
      last.data = static_cast<const char*>(keys.data) + (keys.rows - 1) * keys.row_stride;
      last.rows = 1;
      std::vector<int32_t> code(encoder.subvectors, -1);
      EncodePq(encoder, head, last, GetParam(), scratch.data(), code.data(), 1);
      for (int64_t s = 0; s < encoder.subvectors; ++s) {
        EXPECT_EQ(code[s], codes[s * stride + keys.rows - 1]);
      }
    }
  }
}

TEST(NormChannel, IsWhatIsLeftOfPhi) {
  const float squares[] = {0, 3, 4, 5};
  float channel[4];
  NormChannel(squares, 4, 4, channel);
  EXPECT_EQ(channel[0], 2);
  EXPECT_EQ(channel[1], 1);
  EXPECT_EQ(channel[2], 0);
  EXPECT_EQ(channel[3], 0);
  const uint8_t counted[] = {1, 1, 1, 0};
  EXPECT_EQ(LargestSquare(squares, counted, 4), 4);
  EXPECT_EQ(LargestSquare(squares, nullptr, 4), 5);
}

SA_INSTANTIATE_ISAS(PqCoreTest);

}  // namespace
}  // namespace sparse_attention::cpu
