// What one decode step costs in the research engine, method by method, with indexes built:
//
//   bazel run //benchmarks:research_methods -- --keys 32768
//
// 32 query heads, 8 KV heads, dim 128, bfloat16, one query, random normal data. A repetition runs
// every method once with a query of its own, so that slow moments of the machine hit all alike;
// medians and the middle half of the times are printed, and ratios to oracle top-k of the same run.
// The time to read K and V once from memory (the roofline of dense attention) and LibTorch's
// own attention are measured in the same repetitions. Index builds are timed apart.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/dense_path.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/research_attention/research_attention.h"

namespace sparse_attention {
namespace {

constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128;

struct Method {
  const char* name;
  const char* masker;
};

constexpr Method kMethods[] = {
    {"oracle top-k 10 %", R"({"type": "oracle_top_k", "heavy_size": 0.1})"},
    {"HashAttention 10 %, 32 bits",
     R"({"type": "hash_attention_top_k", "heavy_size": 0.1, "hat_weight_file": "{folder}/hash.safetensors"})"},
    {"Double Sparsity 10 %, 8 channels of 4 bits",
     R"({"type": "double_sparsity_top_k", "heavy_size": 0.1, "group_factor": 16, "label_bits": 4,
         "sorted_channel_file": "{folder}/channels.json"})"},
    {"PQCache 10 %, 2 x 6 bits",
     R"({"type": "pq_cache", "heavy_size": 0.1, "pq_group_factor": 2, "pq_bits": 6,
         "kmeans_iter": 10, "init_offset": 4, "metric": "euclidean"})"},
    {"Quest 10 %, pages of 16", R"({"type": "quest_top_k", "heavy_size": 0.1, "page_size": 16})"},
    {"Socket 10 %, K 10 L 60",
     R"({"type": "socket_top_k", "heavy_size": 0.1, "K": 10, "L": 60, "tau": 0.3})"},
    {"lightning indexer 10 %",
     R"({"type": "lightning_indexer", "heavy_size": 0.1, "weight_file": "{folder}/indexer.safetensors"})"},
    {"MagicPIG, L 75 K 10", R"({"type": "magic_pig", "lsh_l": 75, "lsh_k": 10})"},
};

double MillisecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

struct Series {
  std::string name;
  double build_ms = 0;
  std::vector<double> ms = {};
  double Quantile(double q) const {
    std::vector<double> sorted = ms;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
};

void WriteWeights(const std::string& folder) {
  WriteHashAttentionFile(
      folder + "/hash.safetensors",
      {{.query_heads = kHeads, .key_heads = kKvHeads, .dim = kDim, .bits = 32, .hidden = 128}});
  WriteIndexerFile(
      folder + "/indexer.safetensors",
      {{.query_heads = kHeads, .kv_heads = kKvHeads, .dim = kDim, .heads = 4, .width = 64}});
  ChannelFile channels;
  std::vector<int64_t> order(kDim);
  std::iota(order.begin(), order.end(), 0);
  SA_CHECK_OK(channels.Set(0, ChannelSelection::kQueryKey, ChannelLists(kHeads, order)));
  SA_CHECK_OK(WriteChannelFile(folder + "/channels.json", channels));
}

// Sums 64-bit words of K and V with all threads.
uint64_t ReadAll(const at::Tensor& x) {
  const uint64_t* const data = static_cast<const uint64_t*>(x.const_data_ptr());
  return at::parallel_reduce(
      0, static_cast<int64_t>(x.nbytes() / 8), 1 << 16, uint64_t{0},
      [&](int64_t begin, int64_t end, uint64_t sum) {
        for (int64_t i = begin; i < end; ++i) sum += data[i];
        return sum;
      },
      std::plus<>());
}

void Run(int64_t keys, int repetitions) {
  const c10::InferenceMode no_gradients;
  const std::string folder = std::filesystem::temp_directory_path();
  WriteWeights(folder);
  RandomTensors random(1);
  AttentionInputs in;
  in.k = random.Normal({1, kKvHeads, keys, kDim}, at::kBFloat16);
  in.v = random.Normal({1, kKvHeads, keys, kDim}, at::kBFloat16);
  std::vector<std::unique_ptr<const ResearchAttention>> engines;
  std::vector<AttentionSession> sessions(std::size(kMethods));
  std::vector<Series> series = {{"read K and V once"}, {"LibTorch attention, dense"}};
  for (size_t i = 0; i < std::size(kMethods); ++i) {
    const Json masker = *ParseJson(absl::StrReplaceAll(kMethods[i].masker, {{"{folder}", folder}}));
    const auto config =
        PipelineFromJson({{"type", "research"}, {"maskers", Json::array({masker})}});
    SA_CHECK_OK(config.status());
    auto engine = ResearchAttention::Create(*config);
    SA_CHECK_OK(engine.status());
    engines.push_back(*std::move(engine));
    series.push_back({kMethods[i].name});
    in.q = in.k.new_empty({1, kHeads, 0, kDim});
    series.back().build_ms =
        MillisecondsOf([&] { SA_CHECK_OK(engines[i]->Prepare(in, &sessions[i])); });
  }
  uint64_t sum = 0;
  for (int repetition = -1; repetition < repetitions; ++repetition) {
    const auto time = [&](Series& one, const std::function<void()>& work) {
      const double ms = MillisecondsOf(work);
      if (repetition >= 0) one.ms.push_back(ms);  // the first is to warm up
    };
    time(series[0], [&] { sum += ReadAll(in.k) + ReadAll(in.v); });
    in.q = random.Normal({1, kHeads, 1, kDim}, at::kBFloat16);
    time(series[1], [&] { SA_CHECK_OK(FastDenseAttention(in).status()); });
    for (size_t i = 0; i < engines.size(); ++i) {
      in.q = random.Normal({1, kHeads, 1, kDim}, at::kBFloat16);
      time(series[i + 2], [&] { SA_CHECK_OK(engines[i]->Run(in, &sessions[i]).status()); });
    }
  }
  std::printf(
      "%lld keys, %lld/%lld heads, dim %lld, bfloat16, one query, %d threads, %d "
      "repetitions (checksum %llu)\n\n",
      static_cast<long long>(keys), static_cast<long long>(kHeads),
      static_cast<long long>(kKvHeads), static_cast<long long>(kDim), at::get_num_threads(),
      repetitions, static_cast<unsigned long long>(sum));
  std::printf("%-44s %9s %17s %10s %10s\n", "step", "median ms", "middle half ms", "x oracle",
              "index ms");
  const double oracle = series[2].Quantile(0.5);
  for (const Series& one : series) {
    std::printf("%-44s %9.2f %8.2f-%8.2f %10.2f %10.0f\n", one.name.c_str(), one.Quantile(0.5),
                one.Quantile(0.25), one.Quantile(0.75), one.Quantile(0.5) / oracle, one.build_ms);
  }
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  CLI::App app("Decode steps of the research engine, method by method");
  int64_t keys = 32768;
  int repetitions = 15;
  app.add_option("--keys", keys, "Keys in the cache")->check(CLI::Range(1024, 1 << 20));
  app.add_option("--repetitions", repetitions)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  sparse_attention::Run(keys, repetitions);
  return 0;
}
