#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/score_testing.h"

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Element kElements[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};

// The research engine's quantisation in its own words.
struct Quantized {
  std::vector<float> codes;
  float scale, low;
};
Quantized Quantize(const std::vector<float>& x, int bits) {
  float low = x[0], high = x[0];
  for (float v : x) {
    low = std::isnan(low) || std::isnan(v) ? std::nanf("") : std::min(low, v);
    high = std::isnan(high) || std::isnan(v) ? std::nanf("") : std::max(high, v);
  }
  const float range = high - low, levels = static_cast<float>((1 << bits) - 1);
  Quantized result = {{}, 1 / (range == 0 ? 1 : range) * levels, low};
  for (float v : x) {
    const float code = std::nearbyint((v - low) * result.scale);
    result.codes.push_back(std::isnan(code) ? 0 : std::clamp(code, 0.f, levels));
  }
  return result;
}

class LabelProductTest : public IsaTest {
 protected:
  const LabelKernels kernels_ = LabelKernelsFor(GetParam());

  // Label c of a key whose word w is at words + w * stride * bytes.
  static float LabelAt(const char* labels, Element element, int bits, int64_t stride, int64_t j,
                       int32_t c) {
    if (bits >= 16) return ElementAt(labels, element, c * stride + j);
    if (bits > 8)
      return static_cast<float>(reinterpret_cast<const uint16_t*>(labels)[c * stride + j]);
    const auto* const words = reinterpret_cast<const uint32_t*>(labels);
    if (bits > 4) return static_cast<float>(words[c / 4 * stride + j] >> (8 * (c % 4)) & 0xFF);
    const int place = 8 * (c % 4) + (c % 8 >= 4 ? 4 : 0);
    return static_cast<float>(words[c / 8 * stride + j] >> place & 0xF);
  }

  void Check(TestRandom& random) {
    CountCase(GetParam());
    const Element element = random.OneOf(kElements);
    const int32_t bits = static_cast<int32_t>(random.OneIn(3) ? 4 : random.Between(1, 16));
    const int32_t channels =
        static_cast<int32_t>(random.OneIn(3) ? 8 : random.Between(1, random.OneIn(4) ? 150 : 20));
    const int32_t dim = channels + static_cast<int32_t>(random.Between(0, 20));
    const int32_t rows = static_cast<int32_t>(random.Between(1, kMaxScoreRows));
    const int64_t end = random.Between(0, random.OneIn(8) ? 1200 : 100);
    const int64_t begin = random.Between(0, end), n = end - begin;
    const RowReduce reduce = random.OneOf(kRowReduces);
    const int64_t bytes = ElementBytes(element);
    const bool not_finite = random.OneIn(6), constant = random.OneIn(8);
    const auto channel_lists = [&](int64_t lists) {
      Exact<int32_t> list(lists * channels);
      for (int64_t i = 0; i < list.size(); ++i) {
        list[i] = static_cast<int32_t>(random.Between(0, dim - 1));
      }
      return list;
    };
    const auto fill = [&](Exact<char>& x, int64_t count) {
      const float offset = 3 * random.Normal();
      for (int64_t i = 0; i < count; ++i) {
        float v = constant ? offset : offset + random.Normal();
        if (not_finite && random.OneIn(4 * dim)) {
          v = random.OneIn(2) ? std::nanf("") : random.OneIn(2) ? kInfinity : -kInfinity;
        }
        SetElement(x.data(), element, i, v);
      }
    };
    const auto labels_of = [&](Exact<char>& x, int64_t row, Exact<int32_t>& list, int64_t first) {
      std::vector<float> labels;
      for (int32_t c = 0; c < channels; ++c) {
        labels.push_back(ElementAt(x.data(), element, row * dim + list[first + c]));
      }
      return labels;
    };

    // Keys in two parts, as they are appended.
    Exact<char> keys(end * dim * bytes);
    fill(keys, end * dim);
    Exact<int32_t> key_channels = channel_lists(1);
    const int64_t stride = end + random.Between(0, 3);
    const int words = LabelWords(channels, bits), word_bytes = LabelWordBytes(element, bits);
    Guarded<float> labels((end == 0 ? 0 : (words - 1) * stride + end) * word_bytes / 4 + 1);
    Guarded<float> step(end), low(end);
    RowView view;
    view.base = keys.data();
    view.row_stride = dim * bytes;
    const int64_t cut = random.Between(0, end);
    for (const auto& [from, to] : {std::pair{int64_t{0}, cut}, std::pair{cut, end}}) {
      kernels_.append(view, element, key_channels.data(), channels, bits, from, to, labels.data(),
                      stride, step.data(), low.data());
    }
    ASSERT_TRUE(labels.intact() && step.intact() && low.intact());
    const char* const label_bytes = reinterpret_cast<const char*>(labels.data());
    std::vector<Quantized> quantized(end);
    for (int64_t j = 0; j < end; ++j) {
      const std::vector<float> x = labels_of(keys, j, key_channels, 0);
      quantized[j] = Quantize(x, bits);
      for (int32_t c = 0; c < channels; ++c) {
        const float got = LabelAt(label_bytes, element, bits, stride, j, c);
        const float expected = bits < 16 ? quantized[j].codes[c] : x[c];
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : got == expected)
            << got << " for " << expected << ", key " << j << " channel " << c;
      }
      if (bits >= 16) continue;
      const float scale = quantized[j].scale;
      ASSERT_TRUE(std::isnan(scale) ? std::isnan(step[j]) : step[j] == 1 / scale);
      ASSERT_TRUE(std::isnan(low[j]) ? std::isnan(quantized[j].low) : low[j] == quantized[j].low);
    }

    Exact<char> queries(rows * dim * bytes);
    fill(queries, rows * dim);
    Exact<int32_t> query_channels = channel_lists(rows);
    Guarded<float> prepared(LabelQueryBytes(channels, rows) / 4);
    const LabelProblem p = {element,       channels, bits,        rows,       prepared.data(),
                            labels.data(), stride,   step.data(), low.data(), reduce};
    kernels_.prepare(p, queries.data(), dim * bytes, query_channels.data(), channels,
                     prepared.data());
    ASSERT_TRUE(prepared.intact());
    const int64_t out_stride = n + random.Between(0, 5);
    const int lines = reduce == RowReduce::kNone ? rows : 1;
    Guarded<float> out(n == 0 ? 0 : (lines - 1) * out_stride + n);
    kernels_.score(p, begin, end, out.data(), out_stride);
    ASSERT_TRUE(out.intact());

    const double root = std::sqrt(static_cast<double>(channels)), u = 0x1p-24;
    const double terms = bits <= 8 ? 8 : channels + 8;
    const auto g = [&](double k) { return k * u / (1 - k * u); };
    for (int64_t j = begin; j < end; ++j) {
      std::vector<double> exact(rows), magnitude(rows);
      for (int r = 0; r < rows; ++r) {
        const std::vector<float> q = labels_of(queries, r, query_channels, r * channels);
        const Quantized of_query = Quantize(q, bits);
        double dot = 0, codes = 0, sum = 0, size = 0;
        for (int32_t c = 0; c < channels; ++c) {
          const double of_key = LabelAt(label_bytes, element, bits, stride, j, c);
          if (bits >= 16) {
            exact[r] += q[c] * of_key / root;
            magnitude[r] += std::abs(q[c] * of_key / root);
            continue;
          }
          const double scale = of_query.scale;
          const double x = of_query.codes[c] / scale + of_query.low;
          exact[r] += x / root * (of_key / quantized[j].scale + quantized[j].low);
          sum += x / root;
          size += std::abs(x) * of_key / root;
          dot += (of_query.codes[c] - (bits == 8 ? 128 : 0)) * of_key / (scale * root);
          codes += (of_query.low + (bits == 8 ? 128 : 0) / scale) * of_key / root;
        }
        if (bits >= 16) continue;
        const double products = bits <= 8 ? std::abs(dot) + std::abs(codes) : size;
        magnitude[r] = products / quantized[j].scale + std::abs(sum * quantized[j].low);
      }
      const auto check = [&](float got, double expected, double k, double size) {
        if (not_finite && !std::isfinite(got)) {
          ASSERT_TRUE(std::isnan(expected) || std::isinf(expected)) << got << " for " << expected;
          return;
        }
        ASSERT_LE(std::abs(got - expected), g(k) * size + k * 0x1p-126)
            << got << " for " << expected << ", bits " << bits << " channels " << channels;
      };
      if (reduce == RowReduce::kNone) {
        for (int r = 0; r < rows; ++r) {
          check(out[r * out_stride + j - begin], exact[r], terms, magnitude[r]);
        }
      } else {
        const bool max = reduce == RowReduce::kMax;
        check(out[j - begin], ReduceRows(exact.data(), rows, reduce), max ? terms : terms + rows,
              ReduceRows(magnitude.data(), rows, reduce) * (1 + 1e-9));
      }
      if (HasFatalFailure()) return;
    }
  }
};
SA_INSTANTIATE_ISAS(LabelProductTest);

TEST_P(LabelProductTest, ScoresWithinTheRoundingBound) {
  for (int i = 0; i < SeedCount(600); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    Check(random);
    if (HasFatalFailure()) return;
  }
}

// Products of the largest codes of the most channels are exact: nothing saturates.
TEST_P(LabelProductTest, TheLargestCodes) {
  CountCase(GetParam());
  constexpr int32_t kChannels = 256;
  for (int32_t bits : {4, 7, 8}) {
    // Half of the channels at the top of the range, the others at the bottom.
    std::vector<float> query(kChannels), key(kChannels);
    std::vector<int32_t> list(kChannels);
    const float most = static_cast<float>((1 << bits) - 1);
    for (int32_t c = 0; c < kChannels; ++c) {
      query[c] = key[c] = c % 2 == 0 ? most : 0;
      list[c] = c;
    }
    RowView view;
    view.base = reinterpret_cast<const char*>(key.data());
    std::vector<uint32_t> labels(LabelWords(kChannels, bits));
    float step = 0, low = 0, score = 0;
    kernels_.append(view, Element::kFloat32, list.data(), kChannels, bits, 0, 1, labels.data(), 1,
                    &step, &low);
    std::vector<float> prepared(LabelQueryBytes(kChannels, 1) / 4);
    const LabelProblem p = {Element::kFloat32, kChannels, bits,  1,    prepared.data(),
                            labels.data(),     1,         &step, &low, RowReduce::kNone};
    kernels_.prepare(p, query.data(), 0, list.data(), 0, prepared.data());
    kernels_.score(p, 0, 1, &score, 0);
    EXPECT_EQ(score, most * most * 128 / 16) << bits;
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
