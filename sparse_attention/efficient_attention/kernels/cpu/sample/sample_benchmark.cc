// Sampling keys without replacement out of 131,072, on one core: draws, the deposit into the
// eligible bitmap, and a list of the keys. Every repetition draws for another position.
#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "sparse_attention/efficient_attention/kernels/cpu/sample/without_replacement.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kKeys = 131072, kWords = kKeys / 64;

void SampleKeys(benchmark::State& state) {
  const SampleKernels kernels = SampleKernelsFor(BestIsa());
  // Sink and local keys, and 2 % that are selected already, are not eligible.
  std::vector<uint64_t> eligible(kWords, ~uint64_t{0});
  ClearBits(eligible.data(), 0, 128);
  ClearBits(eligible.data(), kKeys - 128, kKeys);
  for (int64_t j = 128; j < kKeys; j += 50) ClearBits(eligible.data(), j, j + 1);
  const int64_t population = BitmapKernelsFor(BestIsa()).count(eligible.data(), kWords);
  std::vector<uint64_t> selected(kWords), scratch(SampleScratchWords(population));
  uint32_t position = 0;
  for (auto _ : state) {
    kernels.sample_keys(PhiloxStartOf(42, 1, 3, 5, ++position), population, state.range(0),
                        eligible.data(), kWords, scratch.data(), selected.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(SampleKeys)->ArgName("count")->Arg(2621)->Arg(13107)->Unit(benchmark::kMicrosecond);

void SampleRanks(benchmark::State& state) {
  const SampleKernels kernels = SampleKernelsFor(BestIsa());
  std::vector<uint64_t> ranks(SampleScratchWords(kKeys));
  uint32_t position = 0;
  for (auto _ : state) {
    kernels.sample_ranks(PhiloxStartOf(42, 1, 3, 5, ++position), kKeys, state.range(0),
                         ranks.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(SampleRanks)->ArgName("count")->Arg(2621)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sparse_attention::cpu
