// Attention of one query, 32 query heads over 8 KV heads by default, by all threads: an item is a
// KV head (sparse) or a part of one (dense). Data and lists are fresh in every repetition. Beside
// each time stands that of a read of the same bytes and nothing else, alternating with it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

namespace sparse_attention::cpu {
namespace {

constexpr int kHeads = 8;
constexpr int kThreads = 2;
constexpr int kSets = 8;  // of lists: more rows than the caches hold

enum class Choice { kDense, kRows, kPages, kQueryHeads, kScored, kLogits };

struct Case {
  const char* name;
  Choice choice;
  double share = 1;
  Element element = Element::kBFloat16;
  int dim = 128;
  int group = 4;
  int64_t keys = 131072;
};

Workers& TheWorkers() {
  static Workers workers(kThreads);
  return workers;
}

// Elements that are numbers, no two rows alike.
void FillRandom(char* data, int64_t bytes, Element element) {
  constexpr int64_t kBlock = 1000003;
  std::vector<float> normal(kBlock);
  std::mt19937_64 random(1);
  std::normal_distribution<float> draw;
  for (float& x : normal) x = draw(random);
  const int64_t element_bytes = ElementBytes(element);
  std::vector<char> block(static_cast<size_t>(kBlock * element_bytes));
  for (int64_t i = 0; i < kBlock; ++i) SetElement(block.data(), element, i, normal[i]);
  for (int64_t at = 0; at < bytes; at += kBlock * element_bytes) {
    std::memcpy(data + at, block.data(),
                static_cast<size_t>(std::min(bytes - at, kBlock * element_bytes)));
  }
}

// Memory that the cases share, filled anew for another element type.
const char* Elements(int which, Element element) {
  constexpr int64_t kBytes = int64_t{kHeads} * 131072 * 256;
  static AlignedBuffer buffers[2] = {AlignedBuffer(kBytes), AlignedBuffer(kBytes)};
  static int filled[2] = {-1, -1};
  if (filled[which] != static_cast<int>(element)) {
    FillRandom(buffers[which].data(), kBytes, element);
    filled[which] = static_cast<int>(element);
  }
  return buffers[which].data();
}

struct Lists {
  std::vector<uint32_t> keys;
  std::vector<uint16_t> members;
};

Lists ChooseKeys(const Case& c, std::mt19937_64& random) {
  Lists lists;
  std::uniform_real_distribution<> draw;
  for (int64_t j = 0; j < c.keys; ++j) {
    if (c.choice == Choice::kPages) {
      if (draw(random) >= c.share) {
        j += 15;
        continue;
      }
      for (int64_t end = std::min(j + 16, c.keys); j < end; ++j) {
        lists.keys.push_back(static_cast<uint32_t>(j));
      }
      --j;
    } else if (c.choice == Choice::kQueryHeads) {
      uint16_t members = 0;
      for (int r = 0; r < c.group; ++r) members |= (draw(random) < c.share) << r;
      if (members == 0) continue;
      lists.keys.push_back(static_cast<uint32_t>(j));
      lists.members.push_back(members);
    } else if (draw(random) < c.share) {
      lists.keys.push_back(static_cast<uint32_t>(j));
    }
  }
  return lists;
}

double Median(std::vector<double>& x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

void Attention(benchmark::State& bench, const Case& c) {
  const AttentionKernels& kernels = AttentionKernelsFor(BestIsa());
  Workers& workers = TheWorkers();
  const int64_t row_bytes = c.dim * ElementBytes(c.element), head_bytes = c.keys * row_bytes;
  const char* const k = Elements(0, c.element);
  const char* const v = Elements(1, c.element);
  std::vector<char> q(static_cast<size_t>(kHeads * c.group * row_bytes));
  FillRandom(q.data(), static_cast<int64_t>(q.size()), c.element);

  // Pages in a pool, in no order.
  std::vector<int32_t> pages(static_cast<size_t>(kHeads * c.keys / 16));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  std::mt19937_64 random(2);
  std::shuffle(pages.begin(), pages.end(), random);

  std::vector<Lists> lists(kHeads * kSets);
  const bool listed = c.choice != Choice::kDense && c.choice != Choice::kLogits;
  if (listed) {
    for (Lists& each : lists) each = ChooseKeys(c, random);
  }
  const auto view = [&](const char* data, int head) {
    RowView rows = {.base = data + head * head_bytes, .row_stride = row_bytes};
    if (c.choice == Choice::kPages) {
      rows = {.base = data,
              .row_stride = row_bytes,
              .pages = pages.data() + head * (c.keys / 16),
              .page_shift = 4,
              .page_stride = 16 * row_bytes};
    }
    return rows;
  };
  std::vector<AttentionProblem> problems(kHeads);
  for (int head = 0; head < kHeads; ++head) {
    problems[head] = {.element = c.element,
                      .dim = c.dim,
                      .value_dim = c.dim,
                      .rows = c.group,
                      .q = q.data() + head * c.group * row_bytes,
                      .q_stride = row_bytes,
                      .k = view(k, head),
                      .v = view(v, head),
                      .scale = 1 / std::sqrt(static_cast<float>(c.dim))};
  }

  // Dense: each head in parts, merged in order.
  constexpr int kParts = 4;
  constexpr int kItems = kHeads * kParts;
  std::vector<float> max(kItems * kMaxRows), sum(kItems * kMaxRows);
  std::vector<float> out(kItems * kMaxRows * kMaxDim), lse(kHeads * kMaxRows);
  std::vector<char> result(kHeads * kMaxRows * kMaxDim * 4);
  // Logits of a list hold what they hold; those of a range are written.
  std::vector<float> logits(static_cast<size_t>(
      c.choice == Choice::kScored || c.choice == Choice::kLogits ? kThreads * c.group * c.keys
                                                                 : 0));
  for (float& x : logits) x = static_cast<float>(random() % 1000) / 300;
  const auto state_of = [&](int item) {
    return RunningState{max.data() + item * kMaxRows, sum.data() + item * kMaxRows,
                        out.data() + item * kMaxRows * kMaxDim, kMaxDim};
  };
  const auto finish = [&](int head, const RunningState& state) {
    kernels.finish(c.group, c.dim, state, nullptr, c.element,
                   result.data() + head * kMaxRows * kMaxDim * 4, kMaxDim * 4,
                   lse.data() + head * kMaxRows);
  };
  const auto attend = [&](int set) {
    if (c.choice == Choice::kDense || c.choice == Choice::kLogits) {
      workers.Run(kItems, [&](int64_t i, int thread) {
        const int item = static_cast<int>(i), head = item / kParts, part = item % kParts;
        const int64_t begin = c.keys * part / kParts, end = c.keys * (part + 1) / kParts;
        if (c.choice == Choice::kLogits) {
          kernels.logits_range(problems[head], begin, end,
                               logits.data() + thread * c.group * c.keys, c.keys);
          return;
        }
        InitState(c.group, c.dim, state_of(item));
        kernels.attend_range(problems[head], begin, end, nullptr, nullptr, state_of(item));
      });
      for (int head = 0; head < kHeads && c.choice == Choice::kDense; ++head) {
        for (int part = 1; part < kParts; ++part) {
          kernels.merge(c.group, c.dim, state_of(head * kParts + part), state_of(head * kParts));
        }
        finish(head, state_of(head * kParts));
      }
      return;
    }
    workers.Run(kHeads, [&](int64_t i, int thread) {
      const int head = static_cast<int>(i);
      const Lists& list = lists[set * kHeads + head];
      const KeyList keys = {.keys = list.keys.data(),
                            .count = static_cast<int64_t>(list.keys.size()),
                            .members = list.members.empty() ? nullptr : list.members.data()};
      InitState(c.group, c.dim, state_of(head));
      if (c.choice == Choice::kScored) {
        kernels.attend_scored_list(problems[head], keys, logits.data() + thread * c.group * c.keys,
                                   c.keys, state_of(head));
      } else {
        kernels.attend_list(problems[head], keys, state_of(head));
      }
      finish(head, state_of(head));
    });
  };

  // The same bytes, nothing done with them.
  std::vector<ReadItem> items;
  const auto reads_of = [&](int set) {
    items.clear();
    if (!listed) {
      items.resize(4 * kItems);
      StreamItems(k, kHeads * head_bytes, {items.data(), 2 * kItems});
      StreamItems(v, kHeads * head_bytes, {items.data() + 2 * kItems, 2 * kItems});
      if (c.choice == Choice::kLogits) items.resize(2 * kItems);
      return;
    }
    for (int head = 0; head < kHeads; ++head) {
      const Lists& list = lists[set * kHeads + head];
      for (const RowView& rows : {problems[head].k, problems[head].v}) {
        if (c.choice == Choice::kScored && rows.base == problems[head].k.base) continue;
        items.push_back(
            {rows, row_bytes, list.keys.data(), static_cast<int64_t>(list.keys.size())});
      }
    }
  };

  reads_of(0);
  const ReadAhead ahead = BestReadAhead(workers, items);
  std::vector<double> times, probes;
  int set = 0;
  attend(0);
  for (auto _ : bench) {
    set = (set + 1) % kSets;
    const auto start = std::chrono::steady_clock::now();
    attend(set);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bench.SetIterationTime(seconds);
    times.push_back(seconds);
    reads_of((set + kSets / 2) % kSets);
    probes.push_back(SecondsToRead(workers, items, ahead));
  }
  const double time = Median(times), probe = Median(probes);
  bench.counters["median_ms"] = time * 1e3;
  bench.counters["read_ms"] = probe * 1e3;
  bench.counters["GB/s"] = static_cast<double>(BytesOf(items)) / time * 1e-9;
  bench.counters["read_GB/s"] = static_cast<double>(BytesOf(items)) / probe * 1e-9;
  bench.counters["share"] = probe / time;
  bench.counters["read_ahead"] = static_cast<double>(ahead.bytes);
  bench.counters["read_level"] = ahead.level;
}

const Case kCases[] = {
    {"dense", Choice::kDense},
    {"rows_10", Choice::kRows, 0.10},
    {"rows_5", Choice::kRows, 0.05},
    {"rows_2", Choice::kRows, 0.02},
    {"pages_10", Choice::kPages, 0.10},
    {"pages_5", Choice::kPages, 0.05},
    {"query_heads_10", Choice::kQueryHeads, 0.10},
    {"query_heads_2", Choice::kQueryHeads, 0.02},
    {"scored_10", Choice::kScored, 0.10},
    {"logits", Choice::kLogits},
    {"dense_fp16", Choice::kDense, 1, Element::kFloat16},
    {"rows_10_fp16", Choice::kRows, 0.10, Element::kFloat16},
    {"dense_fp32", Choice::kDense, 1, Element::kFloat32, 128, 4, 65536},
    {"rows_10_fp32", Choice::kRows, 0.10, Element::kFloat32, 128, 4, 65536},
    {"dense_d64", Choice::kDense, 1, Element::kBFloat16, 64},
    {"rows_10_d64", Choice::kRows, 0.10, Element::kBFloat16, 64},
    {"dense_d256", Choice::kDense, 1, Element::kBFloat16, 256, 4, 65536},
    {"rows_10_d256", Choice::kRows, 0.10, Element::kBFloat16, 256, 4, 65536},
    {"dense_group1", Choice::kDense, 1, Element::kBFloat16, 128, 1},
    {"dense_group8", Choice::kDense, 1, Element::kBFloat16, 128, 8},
    {"dense_group16", Choice::kDense, 1, Element::kBFloat16, 128, 16},
    {"rows_10_group1", Choice::kRows, 0.10, Element::kBFloat16, 128, 1},
    {"rows_10_group7", Choice::kRows, 0.10, Element::kBFloat16, 128, 7},
    {"rows_10_group16", Choice::kRows, 0.10, Element::kBFloat16, 128, 16},
    {"dense_cached", Choice::kDense, 1, Element::kBFloat16, 128, 4, 512},
};

}  // namespace
}  // namespace sparse_attention::cpu

int main(int argc, char** argv) {
  namespace cpu = sparse_attention::cpu;
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("instruction_set", cpu::IsaName(cpu::BestIsa()));
  benchmark::AddCustomContext("threads", std::to_string(cpu::kThreads));
  for (const cpu::Case& c : cpu::kCases) {
    benchmark::RegisterBenchmark(c.name,
                                 [&c](benchmark::State& state) { cpu::Attention(state, c); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
}
