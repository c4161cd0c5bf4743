#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention_testing.h"

namespace sparse_attention::cuda {
namespace {

using ::testing::Each;
using ::testing::IsNan;

constexpr int kRandomCases = 600;

#define SA_NEED_DEVICE() \
  if (!HasDevice()) GTEST_SKIP() << "no CUDA device"

std::string Name(const Shape& s) {
  std::string name = s.element == Element::kFloat16 ? "fp16" : "bf16";
  const auto add = [&](const char* what, int value) {
    if (value != 0) name += std::string(" ") + what + " " + std::to_string(value);
  };
  add("dim", s.dim), add("batch", s.batch), add("kv_heads", s.kv_heads), add("group", s.group);
  add("queries", s.queries), add("capacity", s.capacity), add("paged", s.paged);
  add("softcap", static_cast<int>(s.softcap)), add("window", s.window), add("splits", s.splits);
  add("sinks", s.sinks), add("sparse", s.sparse), add("sink", s.sink), add("local", s.local);
  add("stride", s.stride), add("members", s.members), add("weights", s.weights);
  add("head_weights", s.head_weights);
  return name;
}

void ExpectRight(const Shape& shape, uint64_t seed) {
  SCOPED_TRACE(Name(shape) + " seed " + std::to_string(seed));
  Problem problem(shape, seed);
  problem.PoisonTheUnseen(seed % 2 == 0 ? kNan : kInfinity);
  problem.Check(problem.Run());
}

TEST(CudaAttentionTest, DenseMatchesFloat64OverAGrid) {
  SA_NEED_DEVICE();
  uint64_t seed = 0;
  for (Element element : {Element::kBFloat16, Element::kFloat16}) {
    for (int dim : {64, 128, 256}) {
      for (int group = 1; group <= kMaxGroup; ++group) {
        for (bool paged : {false, true}) {
          Shape shape;
          shape.element = element;
          shape.dim = dim;
          shape.group = group;
          shape.batch = 3;
          shape.kv_heads = 2;
          shape.capacity = 700;
          shape.paged = paged;
          shape.sinks = group % 2 == 0;
          shape.softcap = group % 3 == 0 ? 20 : 0;
          ExpectRight(shape, ++seed);
        }
      }
    }
  }
}

TEST(CudaAttentionTest, SparseMatchesFloat64OverAGrid) {
  SA_NEED_DEVICE();
  uint64_t seed = 1000;
  for (Element element : {Element::kBFloat16, Element::kFloat16}) {
    for (int dim : {64, 128, 256}) {
      for (int group : {1, 3, 4, 7, 8, 9, 12, 16}) {
        for (int kind = 0; kind < 8; ++kind) {
          Shape shape;
          shape.element = element;
          shape.dim = dim;
          shape.group = group;
          shape.batch = 2;
          shape.kv_heads = 2;
          shape.capacity = 500;
          shape.sparse = true;
          shape.sink = 10;
          shape.local = 20;
          shape.stride = 150;
          shape.paged = kind & 1;
          shape.members = kind & 2;
          shape.weights = kind >= 3;
          shape.head_weights = kind >= 6;
          ExpectRight(shape, ++seed);
        }
      }
    }
  }
}

TEST(CudaAttentionTest, MatchesFloat64InRandomCases) {
  SA_NEED_DEVICE();
  Random random(7);
  for (int i = 0; i < kRandomCases; ++i) {
    Shape shape;
    shape.element = Draw(random, 0, 1) == 0 ? Element::kBFloat16 : Element::kFloat16;
    shape.dim = 64 << Draw(random, 0, 2);
    shape.batch = Draw(random, 1, 4);
    shape.kv_heads = Draw(random, 1, 3);
    shape.group = Draw(random, 1, kMaxGroup);
    shape.queries = Draw(random, 0, 2) == 0 ? Draw(random, 2, 9) : 1;
    shape.capacity = Draw(random, 0, 9) == 0 ? Draw(random, 1000, 4000) : Draw(random, 1, 300);
    shape.paged = Draw(random, 0, 1) == 0;
    shape.softcap = Draw(random, 0, 3) == 0 ? static_cast<float>(Draw(random, 5, 50)) : 0;
    shape.window = Draw(random, 0, 3) == 0 ? Draw(random, 1, shape.capacity + 5) : 0;
    shape.splits = Draw(random, 0, 1) == 0 ? Draw(random, 1, kMaxSplits) : 0;
    shape.sinks = Draw(random, 0, 3) == 0;
    shape.sparse = Draw(random, 0, 2) > 0;
    if (shape.sparse) {
      shape.sink = Draw(random, 0, 1) * Draw(random, 0, shape.capacity);
      shape.local = Draw(random, 0, 1) * Draw(random, 0, shape.capacity);
      shape.stride = Draw(random, 0, 4) == 0 ? 0 : Draw(random, 1, shape.capacity);
      shape.members = shape.stride > 0 && Draw(random, 0, 2) == 0;
      shape.weights = shape.stride > 0 && Draw(random, 0, 1) == 0;
      shape.head_weights = shape.weights && Draw(random, 0, 1) == 0;
    }
    ExpectRight(shape, 5000 + static_cast<uint64_t>(i));
    if (HasFailure()) FAIL() << "case " << i;
  }
}

TEST(CudaAttentionTest, LongSequences) {
  SA_NEED_DEVICE();
  Shape shape;
  shape.capacity = 40000;
  shape.kv_heads = 2;
  for (int splits : {0, 1, 64}) {
    shape.splits = splits;
    Problem problem(shape, 3);
    problem.lengths = {shape.capacity};
    problem.Check(problem.Run());
  }
}

TEST(CudaAttentionTest, WithoutKeysTheOutputIsZero) {
  SA_NEED_DEVICE();
  for (bool sparse : {false, true}) {
    Shape shape;
    shape.batch = 3;
    shape.sparse = sparse;
    shape.queries = 2;
    Problem problem(shape, 1);
    problem.lengths = {0, -7,
                       1};  // of the last the first query sees nothing, nor, sparse, the second
    problem.PoisonTheUnseen(kNan);
    const Output output = problem.Run();
    const size_t rows = sparse ? 24 : 20;
    EXPECT_THAT(std::vector<float>(output.out.begin(), output.out.begin() + rows * 128),
                Each(0.0f));
    EXPECT_THAT(std::vector<float>(output.lse.begin(), output.lse.begin() + rows),
                Each(-kInfinity));
  }
}

TEST(CudaAttentionTest, OneKeyGivesItsValue) {
  SA_NEED_DEVICE();
  for (int dim : {64, 128, 256}) {
    Shape shape;
    shape.dim = dim;
    shape.sparse = true;
    shape.stride = 1;
    shape.weights = true;
    Problem problem(shape, 2);
    problem.lengths = {60};
    problem.counts = {1};
    problem.keys = {37};
    problem.weights = {4.0f};
    problem.PoisonTheUnseen(kNan);
    const Output output = problem.Run();
    for (int h = 0; h < problem.heads; ++h) {
      for (int i = 0; i < dim; ++i) {
        ASSERT_EQ(output.out[h * dim + i], problem.v.At(0, 0, 37, i)) << h << " " << i;
      }
    }
    problem.Check(output);
  }
}

TEST(CudaAttentionTest, LengthsCountsAndPagesOutOfRangeHaveNoEffect) {
  SA_NEED_DEVICE();
  Shape shape;
  shape.batch = 2;
  shape.paged = true;
  shape.sparse = true;
  shape.local = 30;
  shape.stride = 40;
  Problem problem(shape, 4);
  problem.lengths = {1000000, 50};
  problem.counts = {-5, 1000000};
  problem.keys[45] = 0xFFFFFFFFu;
  problem.keys[46] = 0x80000000u;
  problem.keys[47] = 50;
  problem.Check(problem.Run());

  for (bool sparse : {false, true}) {
    Shape paged = shape;
    paged.sparse = sparse;
    if (!sparse) paged.local = paged.stride = 0;
    Problem broken(paged, 6);
    broken.lengths = {100, 100};
    const int per_sequence = static_cast<int>(broken.pages.size()) / 2;
    const Output before = broken.Run();
    broken.Check(before);
    // Without one sequence's pages the other is as it was.
    for (int i = 0; i < per_sequence; ++i) {
      broken.pages[i] = i % 3 == 0 ? -1 : i % 3 == 1 ? 0x7FFFFFFF : broken.num_pages;
    }
    const Output after = broken.Run();
    const size_t half = before.out.size() / 2;
    EXPECT_THAT(std::vector<float>(after.out.begin(), after.out.begin() + half), Each(0.0f));
    EXPECT_EQ(std::vector<float>(after.out.begin() + half, after.out.end()),
              std::vector<float>(before.out.begin() + half, before.out.end()));
  }
}

// Row 0 has elements 1, the others -1: a key of infinity is +infinity for one, -infinity for them.
TEST(CudaAttentionTest, InfiniteLogitsAreAveraged) {
  SA_NEED_DEVICE();
  for (bool sparse : {false, true}) {
    for (int splits : {1, 5}) {
      Shape shape;
      shape.capacity = 900;
      shape.splits = splits;
      shape.sparse = sparse;
      if (sparse) shape.local = 880, shape.stride = 1, shape.weights = true;
      Problem problem(shape, 8);
      problem.lengths = {900};
      for (int h = 0; h < 4; ++h) {
        for (int i = 0; i < 128; ++i) {
          cpu::SetElement(problem.q.data(), shape.element, h * 128 + i, h == 0 ? 1.0f : -1.0f);
        }
      }
      if (sparse) problem.counts = {1}, problem.keys = {5}, problem.weights = {3};
      for (int key : {5, 300, 899}) problem.k.Set(0, 0, key, 0, kInfinity);
      const Output output = problem.Run();
      const float weight = sparse ? 3 : 1;
      EXPECT_EQ(output.lse[0], kInfinity);
      for (int i = 0; i < 128; ++i) {
        const float mean = (weight * problem.v.At(0, 0, 5, i) + problem.v.At(0, 0, 300, i) +
                            problem.v.At(0, 0, 899, i)) /
                           (weight + 2);
        ASSERT_NEAR(output.out[i], mean, 0x1p-7 * std::abs(mean) + 1e-6);
      }
      // For the others these keys have no effect, whatever their values are.
      for (int key : {5, 300, 899}) problem.v.Fill(0, 0, key, kNan);
      const Output other = problem.Run();
      for (int h = 1; h < 4; ++h) {
        EXPECT_TRUE(std::isfinite(other.lse[h]));
        EXPECT_NEAR(other.lse[h], output.lse[h], 1e-5);
        for (int i = 0; i < 128; ++i) {
          ASSERT_NEAR(other.out[h * 128 + i], output.out[h * 128 + i], 1e-5) << h;
        }
      }
    }
  }
}

TEST(CudaAttentionTest, NanStaysWhereItBelongs) {
  SA_NEED_DEVICE();
  for (int splits : {1, 7}) {
    Shape shape;
    shape.capacity = 800;
    shape.splits = splits;
    shape.group = 12;
    Problem problem(shape, 9);
    problem.lengths = {800};
    const Output clean = problem.Run();
    problem.Check(clean);
    const auto row = [](const Output& output, int h) {
      return std::vector<float>(output.out.begin() + h * 128, output.out.begin() + (h + 1) * 128);
    };

    Problem query(shape, 9);
    query.lengths = {800};
    cpu::SetElement(query.q.data(), shape.element, 3 * 128 + 17, kNan);
    const Output of_query = query.Run();
    for (int h = 0; h < 12; ++h) {
      if (h == 3) {
        EXPECT_THAT(row(of_query, h), Each(IsNan()));
        EXPECT_THAT(of_query.lse[h], IsNan());
      } else {
        EXPECT_EQ(row(of_query, h), row(clean, h)) << h;
      }
    }

    Problem value(shape, 9);
    value.lengths = {800};
    value.v.Set(0, 0, 412, 40, kNan);
    const Output of_value = value.Run();
    for (int h = 0; h < 12; ++h) {
      for (int i = 0; i < 128; ++i) {
        if (i == 40) {
          EXPECT_THAT(of_value.out[h * 128 + i], IsNan());
        } else {
          ASSERT_NEAR(of_value.out[h * 128 + i], clean.out[h * 128 + i],
                      0x1p-7 * std::abs(clean.out[h * 128 + i]) + 1e-5);
        }
      }
    }

    Problem key(shape, 9);
    key.lengths = {800};
    key.k.Set(0, 0, 412, 40, kNan);
    EXPECT_THAT(key.Run().out, Each(IsNan()));
  }
}

// Of a key that only some heads or queries attend to the others must notice nothing.
TEST(CudaAttentionTest, NanOfOtherRowsKeysHasNoEffect) {
  SA_NEED_DEVICE();
  Shape shape;
  shape.sparse = true;
  shape.stride = 50;
  shape.members = true;
  Problem problem(shape, 11);
  problem.lengths = {100};
  problem.counts = {50};
  for (int i = 0; i < 50; ++i) problem.keys[i] = static_cast<uint32_t>(2 * i);
  for (uint16_t& m : problem.members) m |= 2;
  for (int i = 10; i < 15; ++i) {
    problem.members[i] = 5;
    problem.k.Fill(0, 0, 2 * i, i % 2 == 0 ? kNan : kInfinity);
    problem.v.Fill(0, 0, 2 * i, kNan);
  }
  const Output output = problem.Run();
  EXPECT_THAT(output.out[0], IsNan());
  EXPECT_THAT(output.out[2 * 128], IsNan());
  problem.v.Fill(0, 0, 0, 0);
  const Output again = problem.Run();
  for (int h : {1, 3}) {
    for (int i = 0; i < 128; ++i) ASSERT_TRUE(std::isfinite(output.out[h * 128 + i])) << h;
    EXPECT_EQ(output.lse[h], again.lse[h]);
  }

  Shape causal;
  causal.queries = 4;
  causal.window = 20;
  Problem queries(causal, 12);
  queries.lengths = {100};
  // The last query alone sees key 99, the first alone key 77.
  queries.v.Fill(0, 0, 99, kNan);
  queries.v.Fill(0, 0, 77, kNan);
  const Output rows = queries.Run();
  for (int query = 0; query < 4; ++query) {
    const bool nan = query == 0 || query == 3;
    for (int i = 0; i < 4 * 128; ++i)
      ASSERT_EQ(std::isnan(rows.out[query * 512 + i]), nan) << query;
  }
}

TEST(CudaAttentionTest, ReplaysOfAGraphGiveTheBitsOfALaunch) {
  SA_NEED_DEVICE();
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  for (bool sparse : {false, true}) {
    Shape shape;
    shape.batch = 3;
    shape.kv_heads = 4;
    shape.capacity = 3000;
    shape.sparse = sparse;
    if (sparse) shape.local = 100, shape.stride = 800, shape.weights = true;
    Problem problem(shape, 13);
    const Output once = problem.Run(stream);
    EXPECT_EQ(problem.Run(stream), once);
    EXPECT_EQ(problem.Run(stream, 20), once);
  }
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST(CudaAttentionTest, WithFixedSplitsASequenceDoesNotDependOnItsBatch) {
  SA_NEED_DEVICE();
  Shape shape;
  shape.batch = 32;
  shape.kv_heads = 2;
  shape.capacity = 600;
  shape.splits = 16;
  Problem all(shape, 14);
  const Output batch = all.Run();
  Shape single = shape;
  single.batch = 1;
  for (int b : {0, 7, 31}) {
    Problem one(single, 15);
    one.lengths = {all.lengths[b]};
    const size_t row = all.q.size() / 32;
    std::copy_n(all.q.begin() + b * row, row, one.q.begin());
    for (int h = 0; h < 2; ++h) {
      for (int j = 0; j < shape.capacity; ++j) {
        for (int i = 0; i < shape.dim; ++i) {
          one.k.Set(0, h, j, i, all.k.At(b, h, j, i));
          one.v.Set(0, h, j, i, all.v.At(b, h, j, i));
        }
      }
    }
    const Output alone = one.Run();
    EXPECT_EQ(alone.out,
              std::vector<float>(batch.out.begin() + b * row, batch.out.begin() + (b + 1) * row));
  }
}

TEST(CudaAttentionTest, RefusesWhatIsNotAllowed) {
  SA_NEED_DEVICE();
  const DeviceBuffer<char> memory(std::vector<char>(1 << 16));
  DecodeParams good;
  good.dim = 128;
  good.batch = good.kv_heads = good.group = 1;
  good.capacity = 16;
  good.splits = 1;
  good.q = good.cache.k = good.cache.v = memory.get();
  good.out = memory.get() + 8192;
  good.cache.row_stride = 256;
  ASSERT_EQ(LaunchDenseDecode(good, nullptr), cudaSuccess);
  const auto refused = [&](auto change) {
    SparseDecodeParams bad = {good, {}};
    change(bad);
    return LaunchSparseDecode(bad, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_FALSE(refused([](SparseDecodeParams&) {}));
  EXPECT_TRUE(refused([](auto& p) { p.attention.element = Element::kFloat32; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.dim = 96; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.group = 17; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.queries = 0; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.capacity = -1; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.splits = kMaxSplits + 1; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.splits = 2; })) << "no workspace";
  EXPECT_TRUE(refused([](auto& p) { p.attention.cache.row_stride = 264; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.cache.v = nullptr; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.q_strides.head = 1; }));
  EXPECT_TRUE(refused([](auto& p) { p.attention.table.page_shift = 31; }));
  EXPECT_TRUE(refused([](auto& p) { p.selection.sink = -1; }));
  EXPECT_TRUE(refused([&](auto& p) {
    p.selection.keys = reinterpret_cast<const uint32_t*>(memory.get());
    p.selection.stride = 4;
  })) << "no counts";
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace sparse_attention::cuda
