#include "sparse_attention/key_index/mlp.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class MlpTest : public IsaTest {};

// Outputs against float64, signatures against outputs, one row against many and this instruction
// set against the plainest.
TEST_P(MlpTest, OutputsAndSignatures) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CountCase(GetParam());
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    const auto below = [&](int64_t bound) {
      return static_cast<int64_t>(engine() % static_cast<uint64_t>(bound));
    };
    const int64_t heads = 1 + below(3), depth = 1 + below(3);
    std::vector<int64_t> widths;
    for (int64_t i = 0; i <= depth; ++i) widths.push_back(1 + below(90));
    std::vector<std::vector<float>> values;
    std::vector<MlpLinear> linears;
    std::vector<std::vector<char>> stored;  // weights
    for (int64_t i = 0; i < depth; ++i) {
      values.emplace_back(heads * widths[i] * widths[i + 1]);
      values.emplace_back(heads * widths[i + 1]);
    }
    for (auto& tensor : values) {
      for (float& value : tensor) value = normal(engine);
    }
    for (int64_t i = 0; i < depth; ++i) {
      const auto element = static_cast<Element>(below(3));
      std::vector<float>& weights = values[2 * i];
      std::vector<char>& bytes = stored.emplace_back(weights.size() * ElementBytes(element));
      for (size_t j = 0; j < weights.size(); ++j) {
        SetElement(bytes.data(), element, static_cast<int64_t>(j), weights[j]);
        weights[j] = ElementAt(bytes.data(), element, static_cast<int64_t>(j));
      }
      linears.push_back(
          {bytes.data(), values[2 * i + 1].data(), widths[i], widths[i + 1], element});
    }
    const Mlp mlp = {linears, static_cast<RowActivation>(seed % 4)};
    KeyRows keys;
    keys.element = static_cast<Element>(below(3));
    keys.rows = below(80);
    keys.row_stride = (widths[0] + below(3)) * ElementBytes(keys.element);
    std::vector<char> data(keys.rows * keys.row_stride);
    keys.data = data.data();
    for (int64_t i = 0; i < keys.rows * keys.row_stride / ElementBytes(keys.element); ++i) {
      SetElement(data.data(), keys.element, i, normal(engine));
    }
    const int64_t head = below(heads), bits = mlp.bits(), words = SignatureWords(bits);
    std::vector<float> scratch(MlpScratchFloats(mlp) + 1, -77.f);
    std::vector<float> outputs(keys.rows * (bits + 1), -77.f);
    std::vector<int32_t> signatures(keys.rows * (words + 1), -77);
    MlpOutputs(mlp, head, keys, GetParam(), scratch.data(), outputs.data(), bits + 1);
    EncodeSignatures(mlp, head, keys, GetParam(), scratch.data(), signatures.data(), words + 1);
    std::vector<float> plain(keys.rows * (bits + 1), -77.f);
    MlpOutputs(mlp, head, keys, Isa::kGeneric, scratch.data(), plain.data(), bits + 1);
    EXPECT_EQ(outputs, plain);
    EXPECT_EQ(scratch.back(), -77.f);
    for (int64_t j = 0; j < keys.rows; ++j) {
      std::vector<double> y, magnitude;  // of the terms that were added
      for (int64_t i = 0; i < widths[0]; ++i) {
        y.push_back(double{ElementAt(keys.Row(j), keys.element, i)});
        magnitude.push_back(std::abs(y.back()));
      }
      for (int64_t l = 0; l < depth; ++l) {
        const MlpLinear& linear = linears[l];
        std::vector<double> next(linear.out), next_magnitude(linear.out);
        for (int64_t o = 0; o < linear.out; ++o) {
          next[o] = linear.bias[head * linear.out + o];
          next_magnitude[o] = std::abs(next[o]);
          for (int64_t i = 0; i < linear.in; ++i) {
            const double weight = values[2 * l][(head * linear.in + i) * linear.out + o];
            next[o] += y[i] * weight;
            next_magnitude[o] += magnitude[i] * std::abs(weight);
          }
          if (l + 1 < depth) {
            const double x = next[o];
            next[o] = mlp.activation == RowActivation::kRelu   ? std::max(0., x)
                      : mlp.activation == RowActivation::kSilu ? x / (1 + std::exp(-x))
                      : mlp.activation == RowActivation::kGelu
                          ? x * 0.5 * std::erfc(-x / std::sqrt(2.0))
                          : std::tanh(x);
          }
        }
        y = next;
        magnitude = next_magnitude;
      }
      for (int64_t o = 0; o < bits; ++o) {
        const float output = outputs[j * (bits + 1) + o];
        // 90 terms a layer, three layers, slopes of activations up to 1.13.
        ASSERT_NEAR(output, y[o], magnitude[o] * 300 * 0x1p-24) << "row " << j << ", bit " << o;
        ASSERT_EQ(signatures[j * (words + 1) + o / 32] >> (o % 32) & 1, output > 0 ? 1 : 0);
      }
      for (int64_t o = bits; o < 32 * words; ++o) {
        ASSERT_EQ(signatures[j * (words + 1) + o / 32] >> (o % 32) & 1, 0);
      }
      ASSERT_EQ(outputs[j * (bits + 1) + bits], -77.f);
      ASSERT_EQ(signatures[j * (words + 1) + words], -77);
      std::vector<int32_t> alone(words);
      EncodeSignatures(mlp, head, keys.Part(j, 1), GetParam(), scratch.data(), alone.data(), words);
      for (int64_t w = 0; w < words; ++w) ASSERT_EQ(alone[w], signatures[j * (words + 1) + w]);
    }
  }
}

SA_INSTANTIATE_ISAS(MlpTest);

}  // namespace
}  // namespace sparse_attention::cpu
