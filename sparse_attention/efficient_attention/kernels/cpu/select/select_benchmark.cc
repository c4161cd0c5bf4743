// Selection from rows of 131,072 scores on one core. "Cold" rows come from a set larger than the
// last-level cache, each used in its turn. Counters give the part of the same run's cold read of
// the same bytes (ReadCold): the roofline.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "benchmark/benchmark.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/levels.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kKeys = 131072, kWords = kKeys / 64;
constexpr int64_t kSetBytes = int64_t{96} << 20;

template <typename T>
class Rows {
 public:
  // draw(): one score.
  explicit Rows(const std::function<T()>& draw)
      : memory_(static_cast<T*>(std::aligned_alloc(size_t{2} << 20, kSetBytes)), &std::free) {
#if defined(__linux__)
    madvise(memory_.get(), kSetBytes, MADV_HUGEPAGE);
#endif
    std::generate_n(memory_.get(), kSetBytes / static_cast<int64_t>(sizeof(T)), draw);
  }
  const T* Next() {
    at_ = (at_ + 1) % (kSetBytes / static_cast<int64_t>(sizeof(T)) / kKeys);
    return memory_.get() + at_ * kKeys;
  }

 private:
  std::unique_ptr<T, decltype(&std::free)> memory_;
  int64_t at_ = 0;
};

uint64_t Random() {  // splitmix64
  static uint64_t state = 1;
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}
float Normal() {
  const uint64_t word = Random();
  const float u = static_cast<float>((word >> 40) + 1) * 0x1p-24f;
  const float angle = static_cast<float>(word & 0xFFFFFF) * (6.2831853f * 0x1p-24f);
  return std::sqrt(-2 * std::log(u)) * std::cos(angle);
}

Rows<float>& FloatRows() {
  static Rows<float> rows(Normal);
  return rows;
}
// Numbers of agreeing bits out of 32.
Rows<uint8_t>& LevelRows() {
  static Rows<uint8_t> rows(
      [] { return static_cast<uint8_t>(__builtin_popcountll(Random() & 0xFFFFFFFFu)); });
  return rows;
}
Rows<uint16_t>& ShortRows() {
  static Rows<uint16_t> rows(
      [] { return static_cast<uint16_t>(300 + static_cast<int>(Normal() * 40)); });
  return rows;
}

std::unique_ptr<void, decltype(&std::free)> Aligned(int64_t bytes) {
  return {std::aligned_alloc(64, (bytes + 63) / 64 * 64), &std::free};
}

double read_seconds_per_byte = 0;  // of ReadCold, which runs first

// The time that reading the row takes, as a part of a second each second.
void Report(benchmark::State& state, int64_t bytes) {
  state.counters["read_share"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(bytes) * read_seconds_per_byte,
      benchmark::Counter::kIsRate);
}

void ReadCold(benchmark::State& state) {
  const BitmapKernels kernels = BitmapKernelsFor(BestIsa());
  Rows<float>& rows = FloatRows();
  int64_t bytes = 0;
  const std::clock_t start = std::clock();  // as the counters: other programs do not count
  for (auto _ : state) {
    const uint64_t* const row = reinterpret_cast<const uint64_t*>(rows.Next());
    benchmark::DoNotOptimize(kernels.count(row, kKeys / 2));
    bytes += kKeys * 4;
  }
  const double taken = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  read_seconds_per_byte = taken / static_cast<double>(bytes);
  state.SetBytesProcessed(bytes);
}
BENCHMARK(ReadCold)->Unit(benchmark::kMicrosecond);

void TopKCold(benchmark::State& state) {
  Rows<float>& rows = FloatRows();
  const auto scratch = Aligned(TopKStream::ScratchBytes(kKeys));
  TopKStream stream(TopKKernelsFor(BestIsa()), kKeys, scratch.get());
  std::vector<uint64_t> selected(kWords);
  for (auto _ : state) {
    stream.Select(rows.Next(), kKeys, kKeys * state.range(0) / 100, nullptr, selected.data());
    benchmark::ClobberMemory();
  }
  Report(state, kKeys * 4);
}
BENCHMARK(TopKCold)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

// Blocks of 2,048 scores that were just written, as after scoring; the sample is at hand. Four rows
// are fed by turns.
void TopKBlocks(benchmark::State& state) {
  constexpr int64_t kBlock = 2048, kRows = 4;
  std::vector<float> scores(kBlock * kRows * 16);
  std::generate(scores.begin(), scores.end(), Normal);
  std::vector<float> sample(1024);
  std::generate(sample.begin(), sample.end(), Normal);
  std::vector<std::unique_ptr<void, decltype(&std::free)>> scratch;
  std::vector<TopKStream> streams;
  for (int64_t r = 0; r < kRows; ++r) {
    scratch.push_back(Aligned(TopKStream::ScratchBytes(kKeys)));
    streams.emplace_back(TopKKernelsFor(BestIsa()), kKeys, scratch.back().get());
  }
  std::vector<uint64_t> selected(kWords);
  int64_t again = 0;
  for (auto _ : state) {
    for (TopKStream& stream : streams) stream.Begin(kKeys / 10, kKeys, sample.data(), 1024);
    for (int64_t begin = 0; begin < kKeys; begin += kBlock) {
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t at = (begin / kBlock * kRows + r) % (kRows * 16) * kBlock;
        streams[r].Feed(begin, scores.data() + at, kBlock, nullptr);
      }
    }
    for (TopKStream& stream : streams) again += !stream.Finish(selected.data());
  }
  state.counters["again"] = static_cast<double>(again);
}
BENCHMARK(TopKBlocks)->Unit(benchmark::kMicrosecond);

void TopKShortCold(benchmark::State& state) {
  Rows<uint16_t>& rows = ShortRows();
  const auto scratch = Aligned(TopKStream::ScratchBytes(kKeys));
  TopKStream stream(TopKKernelsFor(BestIsa()), kKeys, scratch.get());
  std::vector<uint64_t> selected(kWords);
  for (auto _ : state) {
    stream.Select(rows.Next(), kKeys, kKeys * state.range(0) / 100, nullptr, selected.data());
    benchmark::ClobberMemory();
  }
  Report(state, kKeys * 2);
}
BENCHMARK(TopKShortCold)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

void LevelsCold(benchmark::State& state) {
  Rows<uint8_t>& rows = LevelRows();
  const auto scratch = Aligned(LevelStream::ScratchBytes(kKeys));
  LevelStream stream(LevelKernelsFor(BestIsa()), kKeys, scratch.get());
  std::vector<uint64_t> selected(kWords);
  for (auto _ : state) {
    stream.Select(rows.Next(), kKeys, kKeys * state.range(0) / 100, nullptr, selected.data());
    benchmark::ClobberMemory();
  }
  Report(state, kKeys);
}
BENCHMARK(LevelsCold)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

void LevelsHot(benchmark::State& state) {
  const uint8_t* const row = LevelRows().Next();
  const auto scratch = Aligned(LevelStream::ScratchBytes(kKeys));
  LevelStream stream(LevelKernelsFor(BestIsa()), kKeys, scratch.get());
  std::vector<uint64_t> selected(kWords);
  for (auto _ : state) {
    stream.Select(row, kKeys, kKeys * state.range(0) / 100, nullptr, selected.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(LevelsHot)->ArgName("percent")->Arg(10)->Unit(benchmark::kMicrosecond);

// Logits in memory to the bitmap of top-p; the masses take the logits' place in the cache.
void TopPCold(benchmark::State& state) {
  Rows<float>& rows = FloatRows();
  const TopPKernels kernels = TopPKernelsFor(BestIsa());
  std::vector<float> masses(kKeys), scratch(TopPScratchFloats(kKeys));
  std::vector<uint64_t> selected(kWords);
  const double share = static_cast<double>(state.range(0)) / 100;
  for (auto _ : state) {
    const float* const logits = rows.Next();
    const float top = kernels.highest(logits, kKeys, nullptr);
    kernels.masses(logits, kKeys, nullptr, top, masses.data());
    const float threshold =
        kernels.threshold(masses.data(), kKeys, share, TopPRule::kGreater, scratch.data());
    kernels.select_reaching(masses.data(), kKeys, threshold, nullptr, selected.data());
    benchmark::ClobberMemory();
  }
  Report(state, kKeys * 4);
}
BENCHMARK(TopPCold)->ArgName("percent")->Arg(90)->Arg(50)->Unit(benchmark::kMicrosecond);

// What there would be without this library: std::nth_element over indices, then sorting the k.
void NthElementCold(benchmark::State& state) {
  Rows<float>& rows = FloatRows();
  const int64_t k = kKeys * state.range(0) / 100;
  std::vector<uint32_t> keys(kKeys);
  for (auto _ : state) {
    const float* const x = rows.Next();
    std::iota(keys.begin(), keys.end(), 0u);
    std::nth_element(keys.begin(), keys.begin() + k, keys.end(), [x](uint32_t a, uint32_t b) {
      return x[a] > x[b] || (x[a] == x[b] && a < b);
    });
    std::sort(keys.begin(), keys.begin() + k);
    benchmark::ClobberMemory();
  }
}
BENCHMARK(NthElementCold)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

std::vector<uint64_t> RandomBitmap(int64_t percent) {
  std::vector<uint64_t> words(kWords);
  for (uint64_t& word : words) {
    for (int i = 0; i < 64; ++i) word |= uint64_t{Random() % 100 < uint64_t(percent)} << i;
  }
  return words;
}

// Bitmaps come from selection, so they are hot; 16 of them keep branches from being learnt.
void BitmapToList(benchmark::State& state) {
  std::vector<std::vector<uint64_t>> rows;
  for (int i = 0; i < 16; ++i) rows.push_back(RandomBitmap(state.range(0)));
  const BitmapKernels kernels = BitmapKernelsFor(BestIsa());
  std::vector<uint32_t> keys(kKeys);
  int64_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels.to_list(rows[i++ % 16].data(), kWords, 0, keys.data(), kKeys));
  }
}
BENCHMARK(BitmapToList)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

void UnionOfFour(benchmark::State& state) {
  std::vector<std::vector<uint64_t>> rows;
  for (int i = 0; i < 16; ++i) rows.push_back(RandomBitmap(state.range(0)));
  const BitmapKernels kernels = BitmapKernelsFor(BestIsa());
  std::vector<uint32_t> keys(kKeys);
  std::vector<uint16_t> members(kKeys);
  int64_t i = 0;
  for (auto _ : state) {
    const uint64_t* group[4];
    for (int r = 0; r < 4; ++r) group[r] = rows[(i + r) % 16].data();
    i += 3;
    benchmark::DoNotOptimize(
        kernels.union_to_list(group, 4, kWords, 0, keys.data(), members.data(), kKeys));
  }
}
BENCHMARK(UnionOfFour)->ArgName("percent")->Arg(10)->Arg(2)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sparse_attention::cpu
