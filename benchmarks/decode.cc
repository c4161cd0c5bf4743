// What one decode step costs in the efficient engine, beside what the machine's memory gives, our
// dense kernel and LibTorch's best dense path, all in the same run:
//
//   bazel run //benchmarks:decode -- --keys 131072
//
// 32 query heads, 8 KV heads, dim 128, bfloat16, one query, random normal data. A repetition runs
// every case once with a query of its own, so that slow moments of the machine hit all alike;
// medians and the middle half are printed. Keys and values are larger than the caches.
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/matmul.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
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
constexpr const char* kRandom = R"({"type": "random_sampling", "sampling_rate": {k}})";

struct Case {
  std::string name;
  Json pipeline;
  std::unique_ptr<const EfficientAttention> engine;
  AttentionSession session;
  double build_ms = 0, kv_rows = 0, index_bytes = 0, budget = 0, guarantee = -1;
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
  int64_t keys = 131072;
  int64_t batch = 1;
  int repetitions = 15;
  std::string json, only;
};

void Run(const Options& options) {
  const c10::InferenceMode no_gradients;
  const std::string folder = WriteWeights();
  RandomTensors random(1);
  AttentionInputs in;
  const std::vector<int64_t> shape = {options.batch, kKvHeads, options.keys, kDim};
  const size_t bytes =
      static_cast<size_t>(options.batch * kKvHeads * options.keys * kDim) * sizeof(uint16_t);
  // One buffer in huge pages: keys, then values.
  cpu::AlignedBuffer kv(2 * bytes);
  in.k = at::from_blob(kv.data(), shape, at::kBFloat16);
  in.v = at::from_blob(kv.data() + bytes, shape, at::kBFloat16);
  for (int64_t b = 0; b < options.batch; ++b) {
    for (int64_t h = 0; h < kKvHeads; ++h) {
      in.k.select(0, b).select(0, h).copy_(random.Normal({options.keys, kDim}, at::kBFloat16));
      in.v.select(0, b).select(0, h).copy_(random.Normal({options.keys, kDim}, at::kBFloat16));
    }
  }
  std::vector<Case> cases = AllCases(folder);
  if (!options.only.empty()) {
    std::erase_if(cases, [&](const Case& one) {
      return one.name != "dense" && one.name.find(options.only) == std::string::npos;
    });
  }
  for (Case& one : cases) {
    in.q = in.k.new_empty({options.batch, kHeads, 0, kDim});
    one.build_ms = MillisecondsOf([&] { SA_CHECK_OK(one.engine->Prepare(in, &one.session)); });
    in.q = random.Normal({options.batch, kHeads, 1, kDim}, at::kBFloat16);
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
  std::vector<cpu::ReadItem> places(256);
  const auto stream = cpu::StreamItems(kv.data(), static_cast<int64_t>(2 * bytes), places);
  const cpu::ReadAhead ahead = cpu::BestReadAhead(workers, stream);
  std::vector<double> read_ms, torch_ms;
  for (int repetition = -1; repetition < options.repetitions; ++repetition) {
    const auto time = [&](std::vector<double>& times, const std::function<void()>& work) {
      const double ms = MillisecondsOf(work);
      if (repetition >= 0) times.push_back(ms);  // the first is to warm up
    };
    time(read_ms, [&] { cpu::SecondsToRead(workers, stream, ahead); });
    in.q = random.Normal({options.batch, kHeads, 1, kDim}, at::kBFloat16);
    time(torch_ms, [&] { GroupedProduct(in); });
    // LibTorch's threads spin for a moment when they are done.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (Case& one : cases) {
      in.q = random.Normal({options.batch, kHeads, 1, kDim}, at::kBFloat16);
      time(one.ms, [&] { SA_CHECK_OK(one.engine->Run(in, &one.session).status()); });
    }
  }
  const double read = Quantile(read_ms, 0.5), torch = Quantile(torch_ms, 0.5);
  const double dense = Quantile(cases[0].ms, 0.5);
  const double gigabytes = static_cast<double>(2 * bytes) * 1e-9;
  std::printf(
      "batch %lld, %lld keys, %lld/%lld heads, dim %lld, bfloat16, one query, %d threads, %s, %d "
      "repetitions\nstream read %.1f GB/s (%.2f ms for K and V), LibTorch's grouped product %.2f "
      "ms\n\n",
      static_cast<long long>(options.batch), static_cast<long long>(options.keys),
      static_cast<long long>(kHeads), static_cast<long long>(kKvHeads),
      static_cast<long long>(kDim), at::get_num_threads(), cpu::IsaName(cpu::BestIsa()),
      options.repetitions, gigabytes / (read * 1e-3), read, torch);
  std::printf("%-46s %9s %15s %8s %8s %8s %8s %8s %9s\n", "step", "median ms", "middle half",
              "x dense", "x torch", "KV rows", "index", "of read", "build ms");
  Json records = Json::array();
  for (const Case& one : cases) {
    const double ms = Quantile(one.ms, 0.5);
    // The bytes that the step had to read, at the speed of the stream.
    const double of_read = (one.kv_rows + one.index_bytes) * read / ms;
    std::printf("%-46s %9.3f %7.3f-%7.3f %8.2f %8.2f %7.1f%% %7.1f%% %7.1f%% %9.0f",
                one.name.c_str(), ms, Quantile(one.ms, 0.25), Quantile(one.ms, 0.75), dense / ms,
                torch / ms, 100 * one.kv_rows, 100 * one.index_bytes, 100 * of_read, one.build_ms);
    if (one.guarantee >= 0) {
      std::printf("  budget %.0f, promise supported in %.0f%% of rows", one.budget,
                  100 * one.guarantee);
    }
    std::printf("\n");
    records.push_back({{"name", one.name},
                       {"keys", options.keys},
                       {"batch", options.batch},
                       {"median_ms", ms},
                       {"quartiles_ms", {Quantile(one.ms, 0.25), Quantile(one.ms, 0.75)}},
                       {"x_dense", dense / ms},
                       {"x_torch", torch / ms},
                       {"kv_rows_fraction", one.kv_rows},
                       {"index_bytes_fraction", one.index_bytes},
                       {"share_of_stream", of_read},
                       {"build_ms", one.build_ms},
                       {"stream_read_ms", read},
                       {"pipeline", one.pipeline}});
  }
  if (!options.json.empty()) std::ofstream(options.json) << records.dump(1) << "\n";
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  CLI::App app("Decode steps of the efficient engine.");
  sparse_attention::Options options;
  app.add_option("--keys", options.keys, "Keys of a sequence.")->check(CLI::Range(1024, 1 << 20));
  app.add_option("--batch", options.batch, "Sequences.")->check(CLI::Range(1, 64));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  app.add_option("--only", options.only, "Only cases whose name contains this, and dense.");
  app.add_option("--json", options.json, "Write records to this file.");
  CLI11_PARSE(app, argc, argv);
  sparse_attention::Run(options);
  return 0;
}
