// What an index costs on the host: a codebook of 32,768 keys on one thread a core, and the entries
// of one new token for all 8 KV heads on one thread.
//
//   bazel run -c opt //sparse_attention/key_index:encode_benchmark
//
// "hot": the same weights again and again, which then come from the caches; otherwise weights of
// sets that the caches do not hold, as in a model whose layers take turns. bytes_per_second counts
// the weights; BM_Read is what this thread reads from the same memory without computing.
#include <benchmark/benchmark.h>

#include <array>
#include <random>
#include <thread>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"
#include "sparse_attention/key_index/hash_core.h"
#include "sparse_attention/key_index/k_means_core.h"
#include "sparse_attention/key_index/mlp.h"
#include "sparse_attention/key_index/pq_core.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kHeads = 8, kDim = 128;
constexpr int64_t kColdFloats = int64_t{24} << 20;  // 96 MB, three times a large cache

// Floats that differ, cheaply.
std::vector<float> Floats(int64_t n) {
  std::vector<float> values(n);
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

std::vector<BFloat16> Keys(int64_t n) {
  std::vector<BFloat16> keys(n);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (BFloat16& key : keys) key = ToBFloat16(normal(engine));
  return keys;
}

// Weights of `floats` floats: sets that take turns, or one.
class Sets {
 public:
  Sets(int64_t floats, bool hot)
      : floats_(floats), count_(hot ? 1 : kColdFloats / floats), values_(Floats(floats * count_)) {}
  const float* Next() { return values_.data() + next_++ % count_ * floats_; }

 private:
  int64_t floats_, count_, next_ = 0;
  std::vector<float> values_;
};

KeyRows OneKey(const std::vector<BFloat16>& keys, int64_t head) {
  return {keys.data() + head * kDim, Element::kBFloat16, kDim * 2, 1};
}

void BM_Read(benchmark::State& state) {
  const int64_t floats = 36864 * kHeads;
  Sets sets(floats, state.range(0) != 0);
  for (auto _ : state) {
    const float* const values = sets.Next();
    std::array<float, 64> sums = {};
    for (int64_t i = 0; i < floats; i += 64) {
      for (int64_t j = 0; j < 64; ++j) sums[j] += values[i + j];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(state.iterations() * floats * 4);
}
BENCHMARK(BM_Read)->ArgName("hot")->Arg(0)->Arg(1);

// MLP 128-128-128-32 of every KV head.
void BM_HashAttentionToken(benchmark::State& state) {
  constexpr int64_t kMaps = kHeads * kDim * kDim, kLast = kHeads * kDim * 32;
  Sets sets(2 * kMaps + kLast + kHeads * (2 * kDim + 32), state.range(0) != 0);
  const std::vector<BFloat16> keys = Keys(kHeads * kDim);
  std::vector<float> scratch(32 * 2 * kDim);
  std::array<int32_t, kHeads> words;
  for (auto _ : state) {
    const float* const w = sets.Next();
    const float* const bias = w + 2 * kMaps + kLast;
    const std::array<MlpLinear, 3> linears = {
        MlpLinear{w, bias, kDim, kDim}, MlpLinear{w + kMaps, bias + kHeads * kDim, kDim, kDim},
        MlpLinear{w + 2 * kMaps, bias + 2 * kHeads * kDim, kDim, 32}};
    const Mlp mlp = {linears, RowActivation::kSilu};
    for (int64_t head = 0; head < kHeads; ++head) {
      EncodeSignatures(mlp, head, OneKey(keys, head), BestIsa(), scratch.data(), &words[head], 1);
    }
    benchmark::DoNotOptimize(words);
  }
  state.SetBytesProcessed(state.iterations() * (2 * kMaps + kLast) * 4);
}
BENCHMARK(BM_HashAttentionToken)->ArgName("hot")->Arg(0)->Arg(1);

// Tables of planes that all heads share: Socket K 10 L 60, MagicPIG K 10 L 75 and L 150.
void BM_HashToken(benchmark::State& state) {
  HashPlanes planes;
  planes.tables = state.range(0);
  planes.bits = 10;
  planes.dim = kDim;
  const int64_t floats = PackedPlaneFloats(planes.tables, planes.bits, kDim);
  Sets sets(floats, state.range(1) != 0);
  const std::vector<float> x = Floats(kHeads * kDim);
  std::vector<float> scratch(HashScratchFloats(planes));
  std::vector<int16_t> buckets(kHeads * planes.tables);
  for (auto _ : state) {
    planes.packed = sets.Next();
    HashRows(planes, x.data(), kHeads, BestIsa(), scratch.data(), buckets.data(), 1, planes.tables);
    benchmark::DoNotOptimize(buckets.data());
  }
  state.SetBytesProcessed(state.iterations() * floats * 4);
}
BENCHMARK(BM_HashToken)->ArgNames({"tables", "hot"})->ArgsProduct({{60, 75, 150}, {0, 1}});

void BM_PqToken(benchmark::State& state) {
  PqEncoder encoder;
  encoder.heads = kHeads;
  encoder.key_dim = kDim;
  encoder.subvectors = 2;
  encoder.clusters = 64;
  const int64_t floats = kHeads * 2 * encoder.packed_floats();
  Sets sets(floats, state.range(0) != 0);
  const std::vector<BFloat16> keys = Keys(kHeads * kDim);
  std::vector<char> scratch(PqScratchBytes(encoder));
  std::array<uint8_t, kHeads * 2> codes;
  for (auto _ : state) {
    encoder.packed = sets.Next();
    for (int64_t head = 0; head < kHeads; ++head) {
      EncodePq(encoder, head, OneKey(keys, head), BestIsa(), scratch.data(), &codes[2 * head], 1);
    }
    benchmark::DoNotOptimize(codes);
  }
  state.SetBytesProcessed(state.iterations() * floats * 4);
}
BENCHMARK(BM_PqToken)->ArgName("hot")->Arg(0)->Arg(1);

// One vector for all heads, 1,024 channels to 128.
void BM_IndexerToken(benchmark::State& state) {
  Sets sets(kHeads * kDim * 128, state.range(0) != 0);
  const std::vector<float> x = Floats(kHeads * kDim);
  std::array<float, 128> out;
  const RowProductKernels kernels = RowProductKernelsFor(BestIsa());
  for (auto _ : state) {
    kernels.multiply(x.data(), 1, kHeads * kDim, PlainWeights(sets.Next(), kHeads * kDim, 128),
                     nullptr, out.data(), 128);
    benchmark::DoNotOptimize(out);
  }
  state.SetBytesProcessed(state.iterations() * kHeads * kDim * 128 * 4);
}
BENCHMARK(BM_IndexerToken)->ArgName("hot")->Arg(0)->Arg(1);

// 16 channels in 4 bits, and the bounds of a page of 16 keys.
void BM_LabelToken(benchmark::State& state) {
  const std::vector<BFloat16> keys = Keys(kHeads * kDim);
  std::array<int32_t, 16> channels;
  for (int32_t i = 0; i < 16; ++i) channels[i] = i * 37 % kDim;
  std::array<uint32_t, 2 * kHeads> labels;
  std::array<float, kHeads> step, low;
  const LabelKernels kernels = LabelKernelsFor(BestIsa());
  for (auto _ : state) {
    for (int64_t head = 0; head < kHeads; ++head) {
      RowView rows;
      rows.base = reinterpret_cast<const char*>(keys.data() + head * kDim);
      kernels.append(rows, Element::kBFloat16, channels.data(), 16, 4, 0, 1, &labels[2 * head], 1,
                     &step[head], &low[head]);
    }
    benchmark::DoNotOptimize(labels);
  }
}
BENCHMARK(BM_LabelToken);

void BM_QuestToken(benchmark::State& state) {
  const std::vector<BFloat16> keys = Keys(kHeads * 16 * kDim);
  std::vector<BFloat16> bounds(kHeads * 2 * kDim);
  const PageBoundsKernels kernels = PageBoundsKernelsFor(BestIsa());
  for (auto _ : state) {
    for (int64_t head = 0; head < kHeads; ++head) {
      RowView rows;
      rows.base = reinterpret_cast<const char*>(keys.data() + head * 16 * kDim);
      rows.row_stride = kDim * 2;
      kernels.update(rows, Element::kBFloat16, kDim, 16, 16, 0, 16, &bounds[head * 2 * kDim], 0);
    }
    benchmark::DoNotOptimize(bounds.data());
  }
}
BENCHMARK(BM_QuestToken);

double NextUniform(void* engine) {
  return static_cast<double>((*static_cast<std::mt19937*>(engine))() >> 8) * 0x1p-24;
}

// 2 sub-vectors of 64 channels, 64 centroids, 10 iterations, 8 KV heads, two threads.
void BM_PqCodebook(benchmark::State& state) {
  const int64_t n = state.range(0), threads = 2;
  const std::vector<BFloat16> keys = Keys(kHeads * n * kDim);
  std::vector<float> centroids(kHeads * 2 * 64 * 64);
  std::vector<int32_t> codes(kHeads * 2 * n);
  for (auto _ : state) {
    std::vector<std::thread> pool;
    for (int64_t thread = 0; thread < threads; ++thread) {
      pool.emplace_back([&, thread] {
        std::vector<double> scratch(KMeansScratchBytes(n, 64, 64) / 8);
        for (int64_t group = thread; group < kHeads * 2; group += threads) {
          std::mt19937 engine(static_cast<uint32_t>(group));
          KMeansProblem problem;
          problem.x.data = keys.data() + group / 2 * n * kDim + group % 2 * 64;
          problem.x.element = Element::kBFloat16;
          problem.x.row_stride = kDim * 2;
          problem.x.rows = n;
          problem.x.channels = problem.x.width = 64;
          problem.clusters = 64;
          problem.iterations = 10;
          problem.uniform = NextUniform;
          problem.stream = &engine;
          problem.centroids = centroids.data() + group * 64 * 64;
          problem.codes = codes.data() + group * n;
          KMeansOfGroup(problem, BestIsa(), scratch.data());
        }
      });
    }
    for (std::thread& thread : pool) thread.join();
  }
}
BENCHMARK(BM_PqCodebook)->Arg(32768)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace sparse_attention::cpu
