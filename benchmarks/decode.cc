// What one decode step costs in the efficient engine, beside what the machine's memory gives, our
// dense kernel and LibTorch's best dense path, all in the same run:
//
//   bazel run //benchmarks:decode -- --keys 131072
//   bazel run //benchmarks:decode -- --keys 1024,8192,65536,524288 --only Hash --json F
//
// 32 query heads, 8 KV heads, dim 128, bfloat16, random normal data. A repetition runs every case
// once with a query of its own, so that slow moments of the machine hit all alike; medians and the
// middle half are printed. Keys and values that could lie in caches are driven out before each
// step.
//
// "of read" and "of gather" are the bytes that the step had to read, at the speed of the stream and
// of a bare gather of as many random rows, over its time.
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/matmul.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/efficient_attention/efficient_attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128;

constexpr const char* kVAttention = R"({"type": "adaptive_sampling", "base_rate_sampling": 0.02,
    "epsilon": 0.05, "delta": 0.05, "init_offset": 128, "local_offset": 128})";
constexpr const char* kHash =
    R"({"type": "hash_attention_top_k", "heavy_size": {k}, "hat_weight_file": "{folder}/hash.safetensors"})";
constexpr const char* kLabels =
    R"({"type": "double_sparsity_top_k", "heavy_size": {k}, "group_factor": 16, "label_bits": 4,
        "sorted_channel_file": "{folder}/channels.json"})";
constexpr const char* kPq =
    R"({"type": "pq_cache", "heavy_size": {k}, "pq_group_factor": 2, "pq_bits": 6, "kmeans_iter": 10,
        "init_offset": 4, "metric": "euclidean"})";
constexpr const char* kQuest = R"({"type": "quest_top_k", "heavy_size": {k}, "page_size": 16})";
constexpr const char* kSocket =
    R"({"type": "socket_top_k", "heavy_size": {k}, "K": 10, "L": 60, "tau": 0.3})";
constexpr const char* kOracle = R"({"type": "oracle_top_k", "heavy_size": {k}})";
constexpr const char* kMagicPig = R"({"type": "magic_pig", "lsh_l": {k}, "lsh_k": 10})";
constexpr const char* kRandom = R"({"type": "random_sampling", "sampling_rate": {k}})";

struct Case {
  std::string name;
  Json pipeline;
  std::unique_ptr<const EfficientAttention> engine;
  AttentionSession session;
  double build_ms = 0, step_bytes = 0, kv_rows = 0, index_bytes = 0, budget = 0, guarantee = -1;
  std::vector<double> ms = {};
};

double MillisecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

std::string WriteWeights() {
  const std::string folder = std::filesystem::temp_directory_path();
  WriteHashAttentionFile(
      folder + "/hash.safetensors",
      {{.query_heads = kHeads, .key_heads = kKvHeads, .dim = kDim, .bits = 32, .hidden = 128}});
  ChannelFile channels;
  std::vector<int64_t> order(kDim);
  std::iota(order.begin(), order.end(), 0);
  SA_CHECK_OK(channels.Set(0, ChannelSelection::kQueryKey, ChannelLists(kHeads, order)));
  SA_CHECK_OK(WriteChannelFile(folder + "/channels.json", channels));
  return folder;
}

Case MakeCase(const std::string& name, const char* selection, std::vector<std::string> maskers,
              const std::string& folder) {
  Case one;
  one.name = name;
  one.pipeline = {{"type", "efficient"},
                  {"selection", selection},
                  {"group_reduce", "sum"},
                  {"maskers", Json::array()}};
  for (const std::string& masker : maskers) {
    one.pipeline["maskers"].push_back(
        *ParseJson(absl::StrReplaceAll(masker, {{"{folder}", folder}})));
  }
  const auto config = PipelineFromJson(one.pipeline);
  SA_CHECK_OK(config.status());
  auto engine = EfficientAttention::Create(*config);
  SA_CHECK_OK(engine.status());
  one.engine = *std::move(engine);
  return one;
}

std::vector<Case> AllCases(const std::string& folder) {
  const std::vector<std::string> ranges = {R"({"type": "sink", "sink_size": 128})",
                                           R"({"type": "local", "window_size": 128})"};
  std::vector<Case> cases;
  cases.push_back(MakeCase("dense", "query_head", {}, folder));
  cases.push_back(MakeCase("sink and local", "query_head", ranges, folder));
  const auto add = [&](const std::string& name, const char* method, const char* share,
                       const char* selection, const char* sampler = nullptr) {
    std::vector<std::string> maskers = ranges;
    maskers.push_back(absl::StrReplaceAll(method, {{"{k}", share}}));
    if (sampler != nullptr) maskers.emplace_back(sampler);
    cases.push_back(
        MakeCase(absl::StrCat(name, " ", share, ", ", selection), selection, maskers, folder));
  };
  for (const char* share : {"0.1", "0.05", "0.02"}) add("random", kRandom, share, "kv_group");
  for (const char* share : {"0.1", "0.05", "0.02"}) {
    add("HashAttention", kHash, share, "kv_group");
  }
  add("HashAttention", kHash, "0.1", "query_head");
  for (const char* selection : {"kv_group", "query_head"}) {
    add("Double Sparsity", kLabels, "0.1", selection);
    add("PQCache", kPq, "0.1", selection);
    add("Quest", kQuest, "0.1", selection);
    add("oracle top-k", kOracle, "0.1", selection);
  }
  add("Socket", kSocket, "0.1", "kv_group");
  for (const char* selection : {"kv_group", "query_head"}) {
    add("MagicPIG, tables of 10 planes:", kMagicPig, "75", selection);
  }
  add("vAttention on HashAttention", kHash, "0.02", "kv_group", kVAttention);
  add("vAttention on HashAttention", kHash, "0.02", "query_head", kVAttention);
  add("vAttention on oracle", kOracle, "0.02", "query_head", kVAttention);
  return cases;
}

// Dense attention as LibTorch computes it fastest on a CPU: a product for each KV head, the query
// heads of a group as its rows.
at::Tensor GroupedProduct(const AttentionInputs& in) {
  const at::Tensor q = GroupRows(in.q, in.kv_heads());
  const at::Tensor p = at::matmul(q, in.k.transpose(2, 3)).mul_(in.effective_scale()).softmax(-1);
  return UngroupRows(at::matmul(p, in.v), in.query_heads());
}

struct Options {
  std::vector<int64_t> keys = {131072};
  int64_t batch = 1;
  int64_t queries = 1;
  int repetitions = 15;
  std::string json;
  std::vector<std::string> only;
};

// A line of /proc/self/status, in bytes; 0 where there is none.
int64_t StatusBytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(name + ":", 0) == 0) return 1024 * std::atoll(line.c_str() + name.size() + 1);
  }
  return 0;
}
// The most memory that `work` took beyond what there was before it.
int64_t PeakBytesOf(const std::function<void()>& work) {
  std::ofstream("/proc/self/clear_refs") << 5;
  const int64_t before = StatusBytes("VmRSS");
  work();
  return std::max<int64_t>(0, StatusBytes("VmHWM") - before);
}

// A gather of `share` of all rows of K and V, drawn at random, a head after the other.
class Gather {
 public:
  Gather(const char* base, int64_t heads, int64_t keys, int64_t row_bytes, int64_t page,
         double share, RandomTensors& random) {
    const int64_t pages = keys / page;
    const int64_t count = std::max<int64_t>(1, static_cast<int64_t>(share * double(pages)));
    for (int64_t h = 0; h < heads; ++h) {
      const at::Tensor order = random.Normal({pages}).argsort().slice(0, 0, count);
      const at::Tensor chosen = std::get<0>(order.sort());
      std::vector<uint32_t>& rows = rows_.emplace_back();
      for (int64_t i = 0; i < count; ++i) {
        const int64_t first = chosen.const_data_ptr<int64_t>()[i] * page;
        for (int64_t j = 0; j < page; ++j) rows.push_back(static_cast<uint32_t>(first + j));
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      const std::vector<uint32_t>& rows = rows_[static_cast<size_t>(h)];
      items_.push_back({.view = {.base = base + h * keys * row_bytes, .row_stride = row_bytes},
                        .row_bytes = row_bytes,
                        .rows = rows.data(),
                        .count = static_cast<int64_t>(rows.size())});
    }
  }
  std::span<const cpu::ReadItem> items() const { return items_; }

 private:
  std::vector<std::vector<uint32_t>> rows_;
  std::vector<cpu::ReadItem> items_;
};

class Benchmark {
 public:
  explicit Benchmark(const Options& options) : options_(options), folder_(WriteWeights()) {}

  void Run(int64_t keys) {
    const c10::InferenceMode no_gradients;
    RandomTensors random(1);
    AttentionInputs in;
    in.causal = true;
    const std::vector<int64_t> shape = {options_.batch, kKvHeads, keys, kDim};
    const size_t bytes =
        static_cast<size_t>(options_.batch * kKvHeads * keys * kDim) * sizeof(uint16_t);
    // One buffer in huge pages: keys, then values.
    cpu::AlignedBuffer kv(2 * bytes);
    SA_CHECK(kv.data() != nullptr);
    in.k = at::from_blob(kv.data(), shape, at::kBFloat16);
    in.v = at::from_blob(kv.data() + bytes, shape, at::kBFloat16);
    for (int64_t b = 0; b < options_.batch; ++b) {
      for (int64_t h = 0; h < kKvHeads; ++h) {
        in.k.select(0, b).select(0, h).copy_(random.Normal({keys, kDim}, at::kBFloat16));
        in.v.select(0, b).select(0, h).copy_(random.Normal({keys, kDim}, at::kBFloat16));
      }
    }
    const auto new_queries = [&] {
      in.q = random.Normal({options_.batch, kHeads, options_.queries, kDim}, at::kBFloat16);
    };
    std::vector<Case> cases = AllCases(folder_);
    std::erase_if(cases, [&](const Case& one) {
      return one.name != "dense" && !options_.only.empty() &&
             std::none_of(options_.only.begin(), options_.only.end(), [&](const std::string& part) {
               return one.name.find(part) != std::string::npos;
             });
    });
    const double kv_bytes = static_cast<double>(2 * bytes);
    for (Case& one : cases) {
      in.q = in.k.new_empty({options_.batch, kHeads, 0, kDim});
      one.build_ms = MillisecondsOf([&] { SA_CHECK_OK(one.engine->Prepare(in, &one.session)); });
      new_queries();
      one.step_bytes = static_cast<double>(
          PeakBytesOf([&] { SA_CHECK_OK(one.engine->Run(in, &one.session).status()); }));
      MemorySink sink;
      SA_CHECK_OK(one.engine->Run(in, &one.session, &sink).status());
      const auto mean = [&](const Metric& metric, double none) {
        const std::vector<double> values = sink.Values(metric);
        if (values.empty()) return none;
        return std::accumulate(values.begin(), values.end(), 0.0) /
               static_cast<double>(values.size());
      };
      one.kv_rows = mean(kKvRowsFraction, 0);
      one.index_bytes = mean(kIndexBytesFraction, 0);
      one.budget = mean(kSampleBudget, 0);
      one.guarantee = mean(kGuaranteeMetFraction, -1);
    }
    cpu::Workers workers(at::get_num_threads());
    std::vector<cpu::ReadItem> places(256), other_places(256);
    const auto stream = cpu::StreamItems(kv.data(), static_cast<int64_t>(2 * bytes), places);
    const cpu::ReadAhead ahead = cpu::BestReadAhead(workers, stream);
    constexpr int64_t kRowBytes = kDim * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t all_heads = 2 * options_.batch * kKvHeads;
    struct Probe {
      const char* name;
      Gather gather;
      cpu::ReadAhead ahead;
      std::vector<double> ms = {};
    };
    std::vector<Probe> probes;
    const auto add_probe = [&](const char* name, int64_t page, double share) {
      Gather gather(kv.data(), all_heads, keys, kRowBytes, page, share, random);
      const cpu::ReadAhead best = cpu::BestReadAhead(workers, gather.items());
      probes.push_back({name, std::move(gather), best});
    };
    add_probe("random rows, 10 %", 1, 0.1);
    add_probe("random rows, 5 %", 1, 0.05);
    add_probe("random rows, 2 %", 1, 0.02);
    add_probe("random pages of 16 rows, 10 %", 16, 0.1);

    // What lies in caches is driven out by other memory.
    constexpr int64_t kCaches = int64_t{96} << 20;
    if (other_.data() == nullptr && kv_bytes < kCaches) {
      other_ = cpu::AlignedBuffer(kCaches);
      SA_CHECK(other_.data() != nullptr);
      std::memset(other_.data(), 1, kCaches);
    }
    const auto other = cpu::StreamItems(other_.data(), kCaches, other_places);
    std::vector<double> read_ms, torch_ms;
    for (int repetition = -1; repetition < options_.repetitions; ++repetition) {
      const auto time = [&](std::vector<double>& times, const std::function<void()>& work) {
        if (kv_bytes < kCaches) cpu::SecondsToRead(workers, other, ahead);
        const double ms = MillisecondsOf(work);
        if (repetition >= 0) times.push_back(ms);  // the first is to warm up
      };
      time(read_ms, [&] { cpu::SecondsToRead(workers, stream, ahead); });
      for (Probe& probe : probes) {
        time(probe.ms, [&] { cpu::SecondsToRead(workers, probe.gather.items(), probe.ahead); });
      }
      new_queries();
      time(torch_ms, [&] { GroupedProduct(in); });
      // LibTorch's threads spin for a moment when they are done.
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      for (Case& one : cases) {
        new_queries();
        time(one.ms, [&] { SA_CHECK_OK(one.engine->Run(in, &one.session).status()); });
      }
    }
    const double read = Quantile(read_ms, 0.5), torch = Quantile(torch_ms, 0.5);
    const double dense = Quantile(cases[0].ms, 0.5);
    std::printf(
        "batch %lld, %lld keys, %lld/%lld heads, dim %lld, bfloat16, %lld queries, %d threads, %s, "
        "%d repetitions\nstream read %.1f GB/s (%.3f ms for K and V), LibTorch's grouped product "
        "%.3f ms\n",
        static_cast<long long>(options_.batch), static_cast<long long>(keys),
        static_cast<long long>(kHeads), static_cast<long long>(kKvHeads),
        static_cast<long long>(kDim), static_cast<long long>(options_.queries),
        at::get_num_threads(), cpu::IsaName(cpu::BestIsa()), options_.repetitions,
        kv_bytes * 1e-6 / read, read, torch);
    Json gathers = Json::object();
    for (const Probe& probe : probes) {
      const double speed =
          static_cast<double>(cpu::BytesOf(probe.gather.items())) * 1e-6 / Quantile(probe.ms, 0.5);
      std::printf("bare gather of %s: %.1f GB/s\n", probe.name, speed);
      gathers[probe.name] = speed;
    }
    std::printf("\n%-46s %9s %15s %8s %8s %8s %8s %8s %9s %9s %9s\n", "step", "median ms",
                "middle half", "x dense", "x torch", "KV rows", "index", "of read", "of gather",
                "step MB", "build ms");
    for (const Case& one : cases) {
      const double ms = Quantile(one.ms, 0.5);
      // An oracle's keys are read to score; of what it selects only values are.
      const double kv_rows = one.engine->IsOracle() ? one.kv_rows / 2 : one.kv_rows;
      const double of_read = (kv_rows + one.index_bytes) * read / ms;
      const Probe& probe = probes[one.kv_rows > 0.07 ? 0 : one.kv_rows > 0.035 ? 1 : 2];
      const double gather_ms = Quantile(probe.ms, 0.5) * kv_rows * kv_bytes /
                               static_cast<double>(cpu::BytesOf(probe.gather.items()));
      const double of_gather = (gather_ms + one.index_bytes * read) / ms;
      std::printf("%-46s %9.3f %7.3f-%7.3f %8.2f %8.2f %7.1f%% %7.1f%% %7.1f%% %8.1f%% %9.2f %9.0f",
                  one.name.c_str(), ms, Quantile(one.ms, 0.25), Quantile(one.ms, 0.75), dense / ms,
                  torch / ms, 100 * one.kv_rows, 100 * one.index_bytes, 100 * of_read,
                  100 * of_gather, one.step_bytes * 1e-6, one.build_ms);
      if (one.guarantee >= 0) {
        std::printf("  budget %.0f, promise supported in %.0f%% of rows", one.budget,
                    100 * one.guarantee);
      }
      std::printf("\n");
      records_.push_back({{"name", one.name},
                          {"keys", keys},
                          {"batch", options_.batch},
                          {"queries", options_.queries},
                          {"threads", at::get_num_threads()},
                          {"isa", cpu::IsaName(cpu::BestIsa())},
                          {"median_ms", ms},
                          {"quartiles_ms", {Quantile(one.ms, 0.25), Quantile(one.ms, 0.75)}},
                          {"x_dense", dense / ms},
                          {"x_torch", torch / ms},
                          {"kv_bytes", kv_bytes},
                          {"kv_rows_fraction", one.kv_rows},
                          {"bytes_read", (kv_rows + one.index_bytes) * kv_bytes},
                          {"index_bytes_fraction", one.index_bytes},
                          {"share_of_stream", of_read},
                          {"share_of_gather", of_gather},
                          {"step_bytes", one.step_bytes},
                          {"build_ms", one.build_ms},
                          {"stream_read_ms", read},
                          {"gather_gb_s", gathers},
                          {"torch_ms", torch},
                          {"pipeline", one.pipeline}});
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  const Json& records() const { return records_; }

 private:
  const Options options_;
  const std::string folder_;
  cpu::AlignedBuffer other_;
  Json records_ = Json::array();
};

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  CLI::App app("Decode steps of the efficient engine.");
  sparse_attention::Options options;
  app.add_option("--keys", options.keys, "Keys of a sequence; several: one table each.")
      ->delimiter(',')
      ->check(CLI::Range(512, 1 << 20));
  app.add_option("--batch", options.batch, "Sequences.")->check(CLI::Range(1, 64));
  app.add_option("--queries", options.queries, "New queries of a step.")->check(CLI::Range(1, 128));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  app.add_option("--only", options.only,
                 "Only cases whose name contains this, and dense; may be given again.");
  app.add_option("--json", options.json, "Write records to this file.");
  CLI11_PARSE(app, argc, argv);
  sparse_attention::Benchmark benchmark(options);
  for (int64_t keys : options.keys) benchmark.Run(keys);
  if (!options.json.empty()) std::ofstream(options.json) << benchmark.records().dump(1) << "\n";
  return 0;
}
