// Scoring of 131,072 keys for 32 query heads over 8 KV heads by all threads, in blocks whose scores
// stay in the caches. Indexes alternate so that each is read from memory; beside each time stands
// that of a read of the same bytes and nothing else, alternating with it. "rows": a line of scores
// a query head; "max" and "sum": reduced over a group.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bit_agreement.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bucket_match.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/indexer_product.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/label_product.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/table_lookup.h"

namespace sparse_attention::cpu {
namespace {

constexpr int kThreads = 2;
constexpr int kHeads = 8;
constexpr int kGroup = 4;
constexpr int64_t kKeys = 131072;
constexpr int64_t kBlockKeys = 2048;
constexpr int64_t kCacheBytes = int64_t{64} << 20;  // twice the largest cache

// What a method is to the loop below: an index of `units` for each head (keys or pages), and a call
// that scores a block of it.
struct Method {
  int heads = kHeads;
  int64_t units = kKeys;
  int64_t head_bytes = 0;
  std::function<void(char* index, std::mt19937_64& random)> fill;  // of a head
  std::function<void(const char* index, int64_t begin, int64_t end, char* out)> score;
};

double Median(std::vector<double>& x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

void Run(benchmark::State& bench, const std::function<Method()>& make) {
  static Workers workers(kThreads);
  const Method m = make();
  const int64_t set_bytes = m.heads * m.head_bytes;
  const int sets =
      static_cast<int>(std::max<int64_t>(2, (kCacheBytes + set_bytes - 1) / set_bytes));
  AlignedBuffer index(static_cast<size_t>(sets * set_bytes));
  std::mt19937_64 random(1);
  // Random bits once, then shifted copies: no two heads are alike, and it is soon done.
  m.fill(index.data(), random);
  for (int64_t at = m.head_bytes; at < sets * set_bytes; at += m.head_bytes) {
    std::memcpy(index.data() + at, index.data(), static_cast<size_t>(m.head_bytes));
  }
  constexpr int64_t kOutBytes = kBlockKeys * kMaxScoreRows * 4;
  AlignedBuffer out(kThreads * kOutBytes);
  const int64_t parts = m.heads == 1 ? 32 : 4;
  const auto score = [&](int set) {
    workers.Run(m.heads * parts, [&](int64_t item, int thread) {
      const char* const of_head = index.data() + set * set_bytes + item / parts * m.head_bytes;
      const int64_t part = item % parts, end = m.units * (part + 1) / parts;
      for (int64_t j = m.units * part / parts; j < end; j += kBlockKeys) {
        m.score(of_head, j, std::min(end, j + kBlockKeys), out.data() + thread * kOutBytes);
      }
    });
  };
  std::vector<ReadItem> memory(64);
  const auto reads_of = [&](int set) {
    return StreamItems(index.data() + set * set_bytes, set_bytes, memory);
  };
  const ReadAhead ahead = BestReadAhead(workers, reads_of(0));
  std::vector<double> times, probes;
  int set = 0;
  score(0);
  for (auto _ : bench) {
    set = (set + 1) % sets;
    const auto start = std::chrono::steady_clock::now();
    score(set);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bench.SetIterationTime(seconds);
    times.push_back(seconds);
    probes.push_back(SecondsToRead(workers, reads_of((set + sets / 2) % sets), ahead));
  }
  const double time = Median(times), probe = Median(probes);
  bench.counters["median_us"] = time * 1e6;
  bench.counters["best_us"] = *std::min_element(times.begin(), times.end()) * 1e6;
  bench.counters["read_us"] = probe * 1e6;
  bench.counters["GB/s"] = static_cast<double>(set_bytes) / time * 1e-9;
  bench.counters["read_GB/s"] = static_cast<double>(set_bytes) / probe * 1e-9;
  bench.counters["share"] = probe / time;
}

void FillFloats(float* x, int64_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) x[i] = normal(random);
}
// 64 bits at a time, of each of which those of `mask` are kept.
void FillBits(char* x, int64_t bytes, uint64_t mask, std::mt19937_64& random) {
  for (int64_t i = 0; i < bytes; i += 8) {
    const uint64_t bits = random() & mask;
    std::memcpy(x + i, &bits, 8);
  }
}

std::vector<float> Normals(int64_t count) {
  std::mt19937_64 random(2);
  std::vector<float> x(static_cast<size_t>(count));
  FillFloats(x.data(), count, random);
  return x;
}

std::vector<BFloat16> ShortNormals(int64_t count) {
  std::vector<BFloat16> x;
  for (float v : Normals(count)) x.push_back(ToBFloat16(v));
  return x;
}

Method BitAgreement(RowReduce reduce, int group) {
  Method m;
  m.head_bytes = kKeys * 4;
  m.fill = [](char* index, std::mt19937_64& random) {
    FillBits(index, kKeys * 4, ~uint64_t{0}, random);
  };
  std::vector<uint32_t> queries(16);
  std::mt19937_64 random(2);
  for (uint32_t& q : queries) q = static_cast<uint32_t>(random());
  m.score = [=, kernels = BitAgreementKernelsFor(BestIsa())](const char* index, int64_t begin,
                                                             int64_t end, char* out) {
    const BitAgreementProblem p = {
        32, group, queries.data(), reinterpret_cast<const uint32_t*>(index), kKeys, reduce};
    if (MostAgreement(32, group, reduce) <= 255) {
      kernels.score8(p, begin, end, reinterpret_cast<uint8_t*>(out), kBlockKeys);
    } else {
      kernels.score16(p, begin, end, reinterpret_cast<uint16_t*>(out), kBlockKeys);
    }
  };
  return m;
}

// merged: the sum over the group by one table.
Method Lookups(int tables, int bits, bool weighed, RowReduce reduce, bool merged) {
  Method m;
  const int64_t code_bytes = kKeys * tables * CodeBytes(bits);
  m.head_bytes = code_bytes + (weighed ? kKeys * 4 : 0);
  const uint64_t of_code = (uint64_t{1} << bits) - 1;
  const uint64_t mask =
      CodeBytes(bits) == 1 ? of_code * 0x0101010101010101 : of_code * 0x0001000100010001;
  m.fill = [=](char* index, std::mt19937_64& random) {
    FillBits(index, code_bytes, mask, random);
    if (weighed) std::fill_n(reinterpret_cast<float*>(index + code_bytes), kKeys, 1.5f);
  };
  const int64_t row_stride = static_cast<int64_t>(tables) << bits;
  std::vector<float> table = Normals(kGroup * row_stride);
  m.score = [=, kernels = LookupKernelsFor(BestIsa())](const char* index, int64_t begin,
                                                       int64_t end, char* out) {
    const float* const weights =
        weighed ? reinterpret_cast<const float*>(index + code_bytes) : nullptr;
    const LookupProblem p = {
        merged ? 1 : kGroup, tables, bits, table.data(), row_stride, index, kKeys, weights, reduce};
    kernels.score(p, begin, end, reinterpret_cast<float*>(out), kBlockKeys);
  };
  return m;
}

Method Pages(Element element, RowReduce reduce) {
  constexpr int kDim = 128;
  Method m;
  m.units = kKeys / 16;
  const int64_t page_bytes = 2 * kDim * ElementBytes(element);
  m.head_bytes = m.units * page_bytes;
  m.fill = [=, units = m.units](char* index, std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < units * 2 * kDim; ++i) SetElement(index, element, i, normal(random));
  };
  const std::vector<BFloat16> q = ShortNormals(kGroup * kDim);
  std::vector<char> split(SplitQueryBytes(kDim, kGroup));
  const PageBoundsKernels kernels = PageBoundsKernelsFor(BestIsa());
  PageBoundsProblem p = {Element::kBFloat16, element, kDim,       kGroup,
                         split.data(),       nullptr, page_bytes, reduce};
  kernels.split_queries(p, q.data(), kDim * 2, split.data());
  m.score = [=](const char* index, int64_t begin, int64_t end, char* out) {
    PageBoundsProblem problem = p;
    problem.queries = split.data();
    problem.bounds = index;
    kernels.score(problem, begin, end, reinterpret_cast<float*>(out), kBlockKeys);
  };
  return m;
}

Method Labels(int channels, int bits, RowReduce reduce) {
  Method m;
  const int64_t word_bytes = LabelWordBytes(Element::kBFloat16, bits);
  const int64_t label_bytes = kKeys * LabelWords(channels, bits) * word_bytes;
  m.head_bytes = label_bytes + 8 * kKeys;
  m.fill = [=](char* index, std::mt19937_64& random) {
    FillBits(index, label_bytes, ~uint64_t{0}, random);
    FillFloats(reinterpret_cast<float*>(index + label_bytes), 2 * kKeys, random);
  };
  const std::vector<BFloat16> q = ShortNormals(kGroup * 128);
  std::vector<int32_t> list(channels);
  for (int c = 0; c < channels; ++c) list[c] = 3 * c % 128;
  std::vector<char> prepared(LabelQueryBytes(channels, kGroup));
  const LabelKernels kernels = LabelKernelsFor(BestIsa());
  LabelProblem p = {Element::kBFloat16,
                    channels,
                    bits,
                    kGroup,
                    nullptr,
                    nullptr,
                    kKeys,
                    nullptr,
                    nullptr,
                    reduce};
  kernels.prepare(p, q.data(), 256, list.data(), 0, prepared.data());
  m.score = [=](const char* index, int64_t begin, int64_t end, char* out) {
    LabelProblem problem = p;
    problem.queries = prepared.data();
    problem.labels = index;
    problem.step = reinterpret_cast<const float*>(index + label_bytes);
    problem.low = problem.step + kKeys;
    kernels.score(problem, begin, end, reinterpret_cast<float*>(out), kBlockKeys);
  };
  return m;
}

Method Matches(int tables, int bits) {
  Method m;
  m.head_bytes = kKeys * tables * BucketBytes(bits);
  const uint64_t mask = ((uint64_t{1} << bits) - 1) * 0x0001000100010001;  // of 9 to 16 bits
  m.fill = [=, bytes = m.head_bytes](char* index, std::mt19937_64& random) {
    FillBits(index, bytes, mask, random);
  };
  std::vector<uint16_t> queries(kGroup * tables);
  std::mt19937_64 random(2);
  for (uint16_t& q : queries) q = static_cast<uint16_t>(random() & mask);
  m.score = [=, kernels = BucketMatchKernelsFor(BestIsa())](const char* index, int64_t begin,
                                                            int64_t end, char* out) {
    kernels.match({kGroup, tables, bits, queries.data(), index, kKeys}, begin, end,
                  reinterpret_cast<uint64_t*>(out), MatchWords(kBlockKeys));
  };
  return m;
}

Method Indexer(int width, int heads) {
  Method m;
  m.heads = 1;
  m.head_bytes = kKeys * width * 4;
  m.fill = [=](char* index, std::mt19937_64& random) {
    FillFloats(reinterpret_cast<float*>(index), kKeys * width, random);
  };
  const std::vector<float> queries = Normals(heads * width), gates = Normals(heads);
  m.score = [=, kernels = IndexerKernelsFor(BestIsa())](const char* index, int64_t begin,
                                                        int64_t end, char* out) {
    kernels.score(
        {width, heads, queries.data(), gates.data(), reinterpret_cast<const float*>(index), width},
        begin, end, reinterpret_cast<float*>(out));
  };
  return m;
}

struct Case {
  const char* name;
  std::function<Method()> make;
};
constexpr RowReduce kRows = RowReduce::kNone, kMax = RowReduce::kMax, kSum = RowReduce::kSum;
const Case kCases[] = {
    {"hash_32_rows", [] { return BitAgreement(kRows, 4); }},
    {"hash_32_max", [] { return BitAgreement(kMax, 4); }},
    {"hash_32_sum", [] { return BitAgreement(kSum, 4); }},
    {"hash_32_sum_group8", [] { return BitAgreement(kSum, 8); }},
    {"pq_2x6_rows", [] { return Lookups(2, 6, false, kRows, false); }},
    {"pq_2x6_max", [] { return Lookups(2, 6, false, kMax, false); }},
    {"pq_2x6_sum_merged", [] { return Lookups(2, 6, false, kSum, true); }},
    {"pq_2x8_max", [] { return Lookups(2, 8, false, kMax, false); }},
    {"pq_8x6_max", [] { return Lookups(8, 6, false, kMax, false); }},
    {"quest_16_rows", [] { return Pages(Element::kBFloat16, kRows); }},
    {"quest_16_max", [] { return Pages(Element::kBFloat16, kMax); }},
    {"quest_16_fp32_max", [] { return Pages(Element::kFloat32, kMax); }},
    {"labels_8x4_rows", [] { return Labels(8, 4, kRows); }},
    {"labels_8x4_max", [] { return Labels(8, 4, kMax); }},
    {"labels_16x8_max", [] { return Labels(16, 8, kMax); }},
    {"labels_8x16_max", [] { return Labels(8, 16, kMax); }},
    {"socket_60x10_max", [] { return Lookups(60, 10, true, kMax, false); }},
    {"socket_60x10_sum_merged", [] { return Lookups(60, 10, true, kSum, true); }},
    {"socket_60x8_max", [] { return Lookups(60, 8, true, kMax, false); }},
    {"magic_pig_75x10", [] { return Matches(75, 10); }},
    {"indexer_64x8", [] { return Indexer(64, 8); }},
};

}  // namespace
}  // namespace sparse_attention::cpu

int main(int argc, char** argv) {
  namespace cpu = sparse_attention::cpu;
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("instruction_set", cpu::IsaName(cpu::BestIsa()));
  benchmark::AddCustomContext("threads", std::to_string(cpu::kThreads));
  for (const cpu::Case& c : cpu::kCases) {
    benchmark::RegisterBenchmark(c.name, [&c](benchmark::State& state) { cpu::Run(state, c.make); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
  benchmark::RunSpecifiedBenchmarks();
}
