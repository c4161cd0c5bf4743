#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

using ::testing::Each;

class AttentionTest : public IsaTest {
 protected:
  const AttentionKernels& kernels_ = AttentionKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(AttentionTest);

// SA_SEED=n runs the one case of that seed.
TEST_P(AttentionTest, ChainsOfSegmentsAreOneSoftmax) {
  const char* const wanted = std::getenv("SA_SEED");
  const uint64_t first = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1;
  const uint64_t last = wanted != nullptr ? first : 400;
  double worst = 0;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE("SA_SEED=" + std::to_string(seed));
    CountCase(GetParam());
    Random random(seed);
    const Shape shape = RandomShape(random);
    Fixture fixture(kernels_, shape, seed);
    if (Draw(random, 0, 3) == 0) fixture.problem.softcap = static_cast<float>(Draw(random, 1, 60));
    if (Draw(random, 0, 3) == 0) fixture.problem.scale *= 20;  // few keys weigh
    // Chosen twice by the same draws: once to see what is read, then with poison elsewhere.
    const uint64_t segments = random();
    const auto attend = [&] {
      fixture.random.seed(segments);
      const int64_t count = Draw(fixture.random, 1, 4);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t begin = Draw(fixture.random, 0, shape.keys);
        const int64_t end = Draw(fixture.random, begin, shape.keys);
        switch (Draw(fixture.random, 0, 3)) {
          case 0:
            fixture.AttendRange(begin, end);
            break;
          case 1:
            fixture.AttendBoundedRange(begin, end);
            break;
          default:
            fixture.AttendRandomList(fixture.RandomKeys(0.3));
        }
      }
    };
    attend();
    const Element out = static_cast<Element>(Draw(random, 0, 2));
    worst = std::max(worst, fixture.Check(out));
    fixture.PoisonTheUnseen(Draw(random, 0, 1) == 0 ? kNan : kInfinity);
    fixture.state = State(shape.rows, shape.value_dim);
    for (auto& row : fixture.seen) row.clear();
    attend();
    worst = std::max(worst, fixture.Check(out));
    if (HasFailure()) return;
  }
  RecordProperty("worst_share_of_tolerance", std::to_string(worst));
}

TEST_P(AttentionTest, LogitsOfRangesAndLists) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    Random random(seed);
    const Shape shape = RandomShape(random);
    Fixture fixture(kernels_, shape, seed);
    if (seed % 3 == 0) fixture.problem.softcap = 2;
    const int64_t begin = Draw(random, 0, shape.keys - 1), end = Draw(random, begin, shape.keys);
    const int64_t count = end - begin, stride = count + 3;
    std::vector<float> range(static_cast<size_t>(shape.rows * stride), kGuard), list = range;
    std::vector<uint32_t> keys(static_cast<size_t>(count));
    std::iota(keys.begin(), keys.end(), static_cast<uint32_t>(begin));
    kernels_.logits_range(fixture.problem, begin, end, range.data(), stride);
    kernels_.logits_list(fixture.problem, keys.data(), count, list.data(), stride);
    EXPECT_EQ(range, list);
    for (int r = 0; r < shape.rows; ++r) {
      for (int64_t i = 0; i < stride; ++i) {
        const float got = range[static_cast<size_t>(r * stride + i)];
        if (i >= count) {
          ASSERT_EQ(got, kGuard);
          continue;
        }
        double error = 0;
        const double exact = fixture.Logit(r, begin + i, &error);
        ASSERT_NEAR(got, exact, error) << r << ", " << i;
      }
    }
  }
}

TEST_P(AttentionTest, LongRangesWithRisingLogits) {
  for (Element element : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
    CountCase(GetParam());
    Fixture fixture(kernels_,
                    {.element = element, .rows = 5, .dim = 64, .value_dim = 64, .keys = 5000}, 3);
    for (int64_t j = 0; j < 5000; ++j) {
      fixture.k.Set(j, 0, static_cast<float>(j) / 10);
    }
    for (int r = 0; r < 5; ++r) fixture.q.Set(r, 0, 2.0f * static_cast<float>(r) - 2);
    fixture.AttendRange(0, 5000);
    fixture.Check(Element::kFloat32);
  }
}

TEST_P(AttentionTest, NoKeyGivesZero) {
  CountCase(GetParam());
  Fixture fixture(kernels_, {}, 1);
  fixture.AttendRange(7, 7);
  fixture.AttendRandomList({});
  fixture.Check(Element::kBFloat16);
  const std::vector<uint16_t> nobody(100, 0);
  std::vector<uint32_t> keys(100);
  std::iota(keys.begin(), keys.end(), 0);
  kernels_.attend_list(fixture.problem, {keys.data(), 100, nobody.data()}, fixture.state.get());
  fixture.Check(Element::kFloat32);
}

TEST_P(AttentionTest, OneKeyGivesItsValue) {
  for (Element element : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
    for (int rows : {1, 2, 3, 4, 16}) {
      CountCase(GetParam());
      Fixture fixture(kernels_, {.element = element, .rows = rows, .dim = 96, .value_dim = 80},
                      static_cast<uint64_t>(rows));
      fixture.v.Set(42, 3, -0.0f);
      const uint32_t key = 42;
      KeyList list = {&key, 1};
      std::vector<float> logit(rows);
      kernels_.logits_list(fixture.problem, &key, 1, logit.data(), 1);
      kernels_.attend_list(fixture.problem, list, fixture.state.get());
      const Result result = Finish(kernels_, fixture.state, element);
      for (int r = 0; r < rows; ++r) {
        EXPECT_EQ(result.lse[r], logit[r]);
        for (int i = 0; i < 80; ++i) {
          const float value = fixture.v.At(42, i);
          EXPECT_EQ(std::memcmp(&result.out[r][i], &value, 4), 0) << i;
        }
      }
    }
  }
}

TEST_P(AttentionTest, InfiniteLogits) {
  for (int64_t keys : {40, 3000}) {
    CountCase(GetParam());
    Fixture fixture(kernels_, {.rows = 3, .dim = 64, .value_dim = 48, .keys = keys}, 5);
    fixture.k.Set(7, 0, kInfinity);
    fixture.k.Set(keys - 2, 0, kInfinity);
    fixture.q.Set(0, 0, 1);
    fixture.q.Set(1, 0, -1);  // -infinity: as if those keys were not there
    fixture.q.Set(2, 0, 2);
    for (int64_t j : {3, 9}) fixture.v.Fill(j, kNan);  // worth nothing beside infinity
    const std::vector<uint16_t> members = [&] {
      std::vector<uint16_t> m(keys, 7);
      m[3] = m[9] = 4;  // row 2 attends to the NaN
      m[keys - 2] = 3;
      return m;
    }();
    std::vector<uint32_t> all(keys);
    std::iota(all.begin(), all.end(), 0);
    kernels_.attend_list(fixture.problem, {all.data(), keys, members.data()}, fixture.state.get());
    for (int64_t j = 0; j < keys; ++j) {
      if (j != 3 && j != 7 && j != 9 && j != keys - 2) fixture.Expect(1, j, 0);
    }
    const Result result = Finish(kernels_, fixture.state, Element::kFloat32);
    EXPECT_EQ(result.lse[0], kInfinity);
    EXPECT_EQ(result.lse[2], kInfinity);
    for (int i = 0; i < 48; ++i) {
      EXPECT_FLOAT_EQ(result.out[0][i], (fixture.v.At(7, i) + fixture.v.At(keys - 2, i)) / 2);
      EXPECT_EQ(result.out[2][i], fixture.v.At(7, i));
    }
    double sum = 0, out = 0;
    for (const auto& entry : fixture.seen[1]) {
      sum += std::exp(entry.logit);
      out += std::exp(entry.logit) * fixture.v.At(entry.key, 0);
    }
    EXPECT_NEAR(result.out[1][0], out / sum, 1e-5);
    EXPECT_NEAR(result.lse[1], std::log(sum), 1e-5);
  }
}

// A sampled key stands for as many keys as its bias says, beside infinity too.
TEST_P(AttentionTest, InfiniteLogitsKeepTheirBias) {
  CountCase(GetParam());
  Fixture fixture(kernels_, {.rows = 2, .dim = 64, .value_dim = 48, .keys = 40}, 5);
  for (int64_t j : {7, 30}) fixture.k.Set(j, 0, kInfinity);
  fixture.q.Set(0, 0, 1);
  fixture.q.Set(1, 0, 2);
  const std::vector<uint32_t> first = {3, 7}, second = {30, 31};
  const std::vector<float> bias = {0, 0, std::log(3.f), 0};  // [rows, keys]
  kernels_.attend_list(fixture.problem, {first.data(), 2}, fixture.state.get());
  KeyList sampled = {second.data(), 2};
  sampled.bias = bias.data();
  sampled.bias_stride = 2;
  sampled.row_bias[0] = std::log(2.f);
  kernels_.attend_list(fixture.problem, sampled, fixture.state.get());
  const Result result = Finish(kernels_, fixture.state, Element::kFloat32);
  for (int i = 0; i < 48; ++i) {
    const float a = fixture.v.At(7, i), b = fixture.v.At(30, i);
    EXPECT_NEAR(result.out[0][i], (a + 2 * b) / 3, 1e-5);
    EXPECT_NEAR(result.out[1][i], (a + 3 * b) / 4, 1e-5);
  }
  EXPECT_EQ(result.lse[0], kInfinity);
}

TEST_P(AttentionTest, NanStaysInItsRow) {
  for (Element element : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
    CountCase(GetParam());
    const Shape shape = {.element = element, .rows = 6, .dim = 64, .value_dim = 64, .keys = 2500};
    Fixture fixture(kernels_, shape, 8);
    fixture.q.Set(2, 5, kNan);
    fixture.k.Set(100, 9, kNan);
    fixture.v.Set(2000, 11, kNan);
    fixture.k.Set(1500, 1, kInfinity);
    std::vector<uint16_t> members(2500, 0x3F);
    members[100] = 1 << 3;
    members[2000] = 1 << 4;
    members[1500] = 0;
    std::vector<uint32_t> all(2500);
    std::iota(all.begin(), all.end(), 0);
    kernels_.attend_list(fixture.problem, {all.data(), 2500, members.data()}, fixture.state.get());
    const Result result = Finish(kernels_, fixture.state, Element::kFloat32);
    for (int r : {2, 3}) {
      EXPECT_TRUE(std::isnan(result.lse[r]));
      for (float x : result.out[r]) EXPECT_TRUE(std::isnan(x));
    }
    EXPECT_TRUE(std::isnan(result.out[4][11]));
    for (int r : {0, 1, 5}) {
      double sum = 0, out = 0, error = 0;
      for (int64_t j = 0; j < 2500; ++j) {
        if (j == 100 || j == 1500 || j == 2000) continue;
        const double weight = std::exp(fixture.Logit(r, j, &error));
        sum += weight;
        out += weight * fixture.v.At(j, 11);
      }
      EXPECT_NEAR(result.out[r][11], out / sum, 1e-5) << r;
      EXPECT_NEAR(result.lse[r], std::log(sum), 1e-5) << r;
    }
  }
}

TEST_P(AttentionTest, SplitsMergeToTheWhole) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    Random random(seed);
    Shape shape = RandomShape(random);
    Fixture fixture(kernels_, shape, seed);
    std::vector<State> parts;
    std::vector<int64_t> cuts = {0, Draw(random, 0, shape.keys), Draw(random, 0, shape.keys),
                                 shape.keys};
    std::sort(cuts.begin(), cuts.end());
    for (int i = 0; i < 3; ++i) {
      fixture.state = State(shape.rows, shape.value_dim);
      fixture.AttendRange(cuts[i], cuts[i + 1]);
      parts.push_back(fixture.state);
    }
    std::shuffle(parts.begin(), parts.end(), random);
    State whole(shape.rows, shape.value_dim);
    for (State& part : parts) {
      kernels_.merge(shape.rows, shape.value_dim, part.get(), whole.get());
    }
    fixture.state = whole;
    fixture.Check(Element::kFloat32);
  }
}

TEST_P(AttentionTest, MergeOfTheEnds) {
  CountCase(GetParam());
  const auto merged = [&](float a_max, float a, float b_max, float b) {
    std::vector<float> max = {b_max}, sum = {2}, out = {b};
    float from_max = a_max, from_sum = 1, from_out = a;
    kernels_.merge(1, 1, {&from_max, &from_sum, &from_out, 1},
                   {max.data(), sum.data(), out.data(), 1});
    return std::vector<float>{max[0], sum[0], out[0]};
  };
  using ::testing::ElementsAre;
  using ::testing::IsNan;
  EXPECT_THAT(merged(-kInfinity, kNan, 1, 5), ElementsAre(1, 2, 5));
  EXPECT_THAT(merged(1, 5, -kInfinity, kNan), ElementsAre(1, 1, 5));
  EXPECT_THAT(merged(-kInfinity, 5, -kInfinity, 3)[0], -kInfinity);
  EXPECT_THAT(merged(kInfinity, 5, 1, kNan), ElementsAre(kInfinity, 1, 5));
  EXPECT_THAT(merged(1, kNan, kInfinity, 3), ElementsAre(kInfinity, 2, 3));
  EXPECT_THAT(merged(kInfinity, 5, kInfinity, 3), ElementsAre(kInfinity, 3, 8));
  EXPECT_THAT(merged(kNan, 5, 1, 3), ElementsAre(IsNan(), IsNan(), IsNan()));
  EXPECT_THAT(merged(1, 5, kNan, 3), ElementsAre(IsNan(), IsNan(), IsNan()));
  EXPECT_THAT(merged(2, 5, 2, 3), ElementsAre(2, 3, 8));
  EXPECT_THAT(merged(200, 5, 0, 3), ElementsAre(200, 1, 5));
}

TEST_P(AttentionTest, SinksJoinTheDenominator) {
  CountCase(GetParam());
  Fixture fixture(kernels_, {.rows = 6}, 4);
  fixture.AttendRange(0, 100);
  // A row without keys, one with an infinite logit.
  fixture.state.max[4] = -kInfinity;
  fixture.state.max[5] = kInfinity;
  fixture.state.sum[5] = 2;
  State state = fixture.state;
  const Result plain = Finish(kernels_, state, Element::kFloat32);
  const std::vector<float> sinks = {-kInfinity, 0.5f, 90, kInfinity, 1.5f, 3};
  const Result result = Finish(kernels_, state, Element::kFloat32, sinks.data());
  EXPECT_EQ(result.out[0], plain.out[0]);
  EXPECT_EQ(result.lse[0], plain.lse[0]);
  for (int r : {1, 2}) {
    const double with =
        std::exp(static_cast<double>(plain.lse[r])) + std::exp(static_cast<double>(sinks[r]));
    EXPECT_NEAR(result.lse[r], std::log(with), 1e-5);
    const double share = std::exp(static_cast<double>(plain.lse[r])) / with;
    for (int i = 0; i < 128; ++i) {
      EXPECT_NEAR(result.out[r][i], plain.out[r][i] * share, 1e-6 * share + 1e-30);
    }
  }
  EXPECT_THAT(result.out[3], Each(0.0f));
  EXPECT_EQ(result.lse[3], kInfinity);
  EXPECT_THAT(result.out[4], Each(0.0f));
  EXPECT_EQ(result.lse[4], 1.5f);
  EXPECT_EQ(result.out[5], plain.out[5]);
  EXPECT_EQ(result.lse[5], kInfinity);
  const std::vector<float> infinite(6, kInfinity);
  const Result both = Finish(kernels_, state, Element::kFloat32, infinite.data());
  EXPECT_FLOAT_EQ(both.out[5][0], state.out[5 * state.stride] / 3);
}

TEST_P(AttentionTest, OutputsRoundToNearest) {
  CountCase(GetParam());
  Random random(6);
  State state(1, 250);
  state.max[0] = 0;
  state.sum[0] = 1;
  const std::vector<float> ends = {0,      -0.0f,   kInfinity, -kInfinity,  65519.99f,
                                   65520,  -7e4f,   6e-8f,     2.9e-8f,     3e-8f,
                                   1e-39f, 6.1e-5f, 3.4e38f,   1.00390625f, 1.01171875f};
  for (int i = 0; i < 250; ++i) {
    state.out[i] = i < static_cast<int>(ends.size())
                       ? ends[i]
                       : std::ldexp(std::normal_distribution<float>()(random),
                                    static_cast<int>(Draw(random, -26, 17)));
  }
  for (Element element : {Element::kFloat16, Element::kBFloat16}) {
    const Result result = Finish(kernels_, state, element);
    for (int i = 0; i < 250; ++i) {
      char expected[4];
      SetElement(expected, element, 0, state.out[i]);
      EXPECT_EQ(result.out[0][i], ElementAt(expected, element, 0)) << state.out[i];
    }
  }
}

TEST_P(AttentionTest, TheSameCallGivesTheSameBits) {
  CountCase(GetParam());
  Fixture fixture(kernels_, {.keys = 2000}, 12);
  fixture.AttendRange(0, 2000);
  State first = fixture.state;
  // Contiguous or listed, the arithmetic is the same.
  fixture.state = State(4, 128);
  std::vector<uint32_t> all(2000);
  std::iota(all.begin(), all.end(), 0);
  kernels_.attend_list(fixture.problem, {all.data(), 2000}, fixture.state.get());
  EXPECT_EQ(first.out, fixture.state.out);
  EXPECT_EQ(first.sum, fixture.state.sum);
}

}  // namespace
}  // namespace sparse_attention::cpu
