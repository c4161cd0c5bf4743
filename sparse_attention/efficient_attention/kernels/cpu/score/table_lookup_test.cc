#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

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

// Codes of any width behind one another.
struct Codes {
  Codes(int64_t size, int bits) : bytes(CodeBytes(bits)), data(size * bytes) {}
  void Set(int64_t i, uint32_t code) { std::memcpy(data.data() + i * bytes, &code, bytes); }
  uint32_t Get(int64_t i) {
    uint32_t code = 0;
    std::memcpy(&code, data.data() + i * bytes, bytes);
    return code;
  }
  int bytes;
  Exact<char> data;
};

class TableLookupTest : public IsaTest {
 protected:
  const LookupKernels kernels_ = LookupKernelsFor(GetParam());

  void Check(TestRandom& random) {
    CountCase(GetParam());
    const int32_t rows = static_cast<int32_t>(random.Between(1, random.OneIn(3) ? 16 : 5));
    const int32_t tables = static_cast<int32_t>(random.Between(1, random.OneIn(4) ? 20 : 4));
    const int32_t bits =
        static_cast<int32_t>(random.OneIn(3) ? 6 : random.Between(1, random.OneIn(20) ? 18 : 11));
    const bool factored = kernels_.TakesFactored(bits) && random.OneIn(2);
    const int64_t entries = int64_t{1} << bits;
    const int64_t floats = factored ? HalvesFloats(bits) : entries, low = 1 << LowBits(bits);
    const int64_t end = random.Between(0, random.OneIn(10) ? 3000 : 300);
    const int64_t begin = random.Between(0, end), n = end - begin;
    const int64_t code_stride = end + random.Between(0, 3);
    const int64_t row_stride = tables * floats + random.Between(0, 2);
    const RowReduce reduce = random.OneOf(kRowReduces);
    const bool weighed = random.OneIn(2), not_finite = random.OneIn(6);
    Exact<float> table((rows - 1) * row_stride + tables * floats), weights(end);
    Codes codes(end == 0 ? 0 : (tables - 1) * code_stride + end, bits);
    for (int64_t i = 0; i < table.size(); ++i) {
      table[i] = random.Normal();
      if (not_finite && random.OneIn(2 * entries)) {
        table[i] = random.OneIn(3) ? std::nanf("") : random.OneIn(2) ? kInfinity : -kInfinity;
      }
    }
    for (int64_t i = 0; i < end; ++i) weights[i] = random.OneIn(9) ? 0 : std::abs(random.Normal());
    for (int32_t t = 0; t < tables; ++t) {
      for (int64_t j = 0; j < end; ++j) {
        codes.Set(t * code_stride + j, static_cast<uint32_t>(random.Between(0, entries - 1)));
      }
    }
    LookupProblem p = {rows,        tables,
                       bits,        table.data(),
                       row_stride,  codes.data.data(),
                       code_stride, weighed ? weights.data() : nullptr,
                       reduce,      factored};
    const auto entry = [&](int r, int32_t t, int64_t code) {
      const int64_t first = r * row_stride + t * floats;
      if (!factored) return table[first + code];
      return table[first + code % low] * table[first + low + code / low];
    };
    const int64_t stride = n + random.Between(0, 5);
    const int lines = reduce == RowReduce::kNone ? rows : 1;
    Guarded<float> out(n == 0 ? 0 : (lines - 1) * stride + n);
    kernels_.score(p, begin, end, out.data(), stride);
    ASSERT_TRUE(out.intact());

    Exact<float> merged(factored ? 0 : tables * entries);
    Guarded<float> of_merged(n);
    if (!factored) {
      kernels_.merge(p, merged.data());
      LookupProblem q = p;
      q.rows = 1;
      q.table = merged.data();
      q.reduce = RowReduce::kSum;
      kernels_.score(q, begin, end, of_merged.data(), 0);
      ASSERT_TRUE(of_merged.intact());
    }

    for (int64_t j = begin; j < end; ++j) {
      const float weight = weighed ? weights[j] : 1;
      std::vector<float> sums(rows);
      double exact = 0, magnitude = 0;
      for (int r = 0; r < rows; ++r) {
        for (int32_t t = 0; t < tables; ++t) {
          const float x = entry(r, t, codes.Get(t * code_stride + j));
          sums[r] += x;
          exact += static_cast<double>(x) * weight;
          magnitude += std::abs(static_cast<double>(x)) * weight;
        }
        if (weighed) sums[r] *= weight;
      }
      const auto expect_equal = [](float got, float expected) {
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : got == expected)
            << got << " for " << expected;
      };
      if (reduce == RowReduce::kNone) {
        for (int r = 0; r < rows; ++r) expect_equal(out[r * stride + j - begin], sums[r]);
      } else {
        float all = sums[0];
        for (int r = 1; r < rows; ++r) {
          if (reduce != RowReduce::kMax) {
            all += sums[r];
          } else if (std::isnan(sums[r]) || sums[r] > all) {
            all = sums[r];
          }
        }
        if (reduce == RowReduce::kMean) all /= static_cast<float>(rows);
        expect_equal(out[j - begin], all);
      }
      if (HasFatalFailure()) return;
      if (not_finite || factored) continue;
      const double roundings = (tables + rows + 1) * 0x1p-24;
      ASSERT_LE(std::abs(of_merged[j - begin] - exact), roundings / (1 - roundings) * magnitude);
    }
  }
};
SA_INSTANTIATE_ISAS(TableLookupTest);

TEST_P(TableLookupTest, AddsInTheOrderOfTables) {
  for (int i = 0; i < SeedCount(600); ++i) {
    const uint64_t seed = FirstSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "SA_TEST_SEED=" << seed);
    TestRandom random(seed);
    Check(random);
    if (HasFatalFailure()) return;
  }
}

// Every entry of a table of every size is found, in every place of a vector.
TEST_P(TableLookupTest, EveryEntry) {
  for (int32_t bits = 1; bits <= 12; ++bits) {
    CountCase(GetParam());
    const int64_t entries = int64_t{1} << bits;
    const int64_t n = entries + 64;
    std::vector<float> table(2 * entries);
    for (int64_t i = 0; i < 2 * entries; ++i) {  // all bits of a float take part
      table[i] = static_cast<float>(i + 1) * 1.2345678f * (i % 2 == 0 ? -1 : 1);
    }
    Codes codes(2 * n, bits);
    for (int64_t j = 0; j < n; ++j) {
      codes.Set(j, static_cast<uint32_t>((j * 5 + 3) % entries));
      codes.Set(n + j, static_cast<uint32_t>(j % entries));
    }
    std::vector<float> out(n);
    kernels_.score({1, 2, bits, table.data(), 0, codes.data.data(), n, nullptr, RowReduce::kNone},
                   0, n, out.data(), 0);
    for (int64_t j = 0; j < n; ++j) {
      ASSERT_EQ(out[j], table[(j * 5 + 3) % entries] + table[entries + j % entries]) << bits;
    }
  }
}

TEST_P(TableLookupTest, AppendsCodes) {
  for (int32_t bits : {1, 8, 9, 16, 17, 20}) {
    CountCase(GetParam());
    Codes index(3 * 10, bits);
    const std::vector<int32_t> codes = {0, 1, 0, -1, (1 << bits) - 1, 0, 1, -1};  // two keys of 3
    kernels_.append(codes.data(), 4, 2, 3, bits, index.data.data(), 10, 7);
    std::vector<uint32_t> expected(30, 0);
    expected[17] = expected[28] = 1;
    expected[8] = static_cast<uint32_t>((1 << bits) - 1);
    for (int i = 0; i < 30; ++i) EXPECT_EQ(index.Get(i), expected[i]) << bits << " " << i;
  }
}

template <typename T>
T FromFloat(float x) {
  if constexpr (std::is_same_v<T, float>) return x;
  if constexpr (std::is_same_v<T, Float16>) return ToFloat16(x);
  if constexpr (std::is_same_v<T, BFloat16>) return ToBFloat16(x);
}

template <typename T>
void CheckNorms(const LookupKernels& kernels, Element element) {
  TestRandom random(7);
  for (int32_t dim = 1; dim <= 70; ++dim) {
    Exact<T> values(5 * dim);
    for (int64_t i = 0; i < values.size(); ++i) values[i] = FromFloat<T>(random.Normal());
    values[4 * dim - 1] = FromFloat<T>(std::nanf(""));
    values[5 * dim - 1] = FromFloat<T>(-kInfinity);
    RowView view;
    view.base = reinterpret_cast<const char*>(values.data());
    view.row_stride = dim * static_cast<int64_t>(sizeof(T));
    Guarded<float> norms(5);
    norms[0] = -1;
    kernels.value_norms(view, element, dim, 1, 5, norms.data());
    ASSERT_TRUE(norms.intact());
    EXPECT_EQ(norms[0], -1);
    for (int j = 1; j < 5; ++j) {
      double squares = 0;
      for (int32_t i = 0; i < dim; ++i) {
        const double x = ToFloat(values[j * dim + i]);
        squares += x * x;
      }
      const double norm = std::isfinite(squares) ? std::sqrt(squares) : 0;
      EXPECT_NEAR(norms[j], norm, (dim + 2) * 0x1p-24 * norm) << "dim " << dim << " key " << j;
    }
  }
}
TEST_P(TableLookupTest, ValueNorms) {
  CountCase(GetParam());
  CheckNorms<float>(kernels_, Element::kFloat32);
  CheckNorms<Float16>(kernels_, Element::kFloat16);
  CheckNorms<BFloat16>(kernels_, Element::kBFloat16);
}

}  // namespace
}  // namespace sparse_attention::cpu
