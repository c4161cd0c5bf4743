// How often vAttention's promise fails, and what keeping it costs, in the efficient engine:
//
//   bazel run //benchmarks:guarantee
//   bazel run //benchmarks:guarantee -- --keys 131072 --tokens 4096 --json F
//
// configs/vattention_hash_2.json and its variants run on random normal data and on the queries,
// keys and values of the model that comes with the project while it reads a text, every query with
// draws of its own. A pair of a query head and a query fails where the denominator (or the output,
// for "guarantee": "output") lies further than epsilon from dense attention's, relatively; the
// promise is that at most a share of delta of the pairs does. Promises about outputs, whose budgets
// take long to compute, are measured on every eighth step. Source: "vAttention: Verified Sparse
// Attention", 2025.
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "adapters/host_attention.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "evaluation/interval.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/efficient_attention/efficient_attention.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128;

struct Options {
  int64_t keys = 32768, pairs = 10240;
  int64_t context = 16384, tokens = 1024;
  double epsilon = 0.05, delta = 0.05;
  std::string model, text, json;
};

std::unique_ptr<const EfficientAttention> EngineOf(const Json& pipeline) {
  const auto config = PipelineFromJson(pipeline);
  SA_CHECK_OK(config.status());
  auto engine = EfficientAttention::Create(*config);
  SA_CHECK_OK(engine.status());
  return *std::move(engine);
}

double Quantile(const at::Tensor& values, double q) {
  return std::get<0>(values.sort())[static_cast<int64_t>(q * double(values.numel() - 1) + 0.5)]
      .item<double>();
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(std::max<size_t>(1, values.size()));
}

// One pipeline and what its steps showed.
class Case {
 public:
  Case(std::string name, const Json& pipeline)
      : name_(std::move(name)), pipeline_(pipeline), engine_(EngineOf(pipeline)) {}

  void Prepare(const AttentionInputs& prefix) { SA_CHECK_OK(engine_->Prepare(prefix, &session_)); }

  void Step(const AttentionInputs& in, const at::Tensor& dense_out, const at::Tensor& dense_lse) {
    MemorySink sink;
    at::Tensor lse;
    const auto out = engine_->Run(in, &session_, &sink, &lse);
    SA_CHECK_OK(out.status());
    const at::Tensor exact = dense_out.to(at::kDouble);
    denominators_.push_back(lse.sub(dense_lse).to(at::kDouble).expm1().abs().flatten());
    outputs_.push_back(
        out->to(at::kDouble).sub(exact).norm(2, -1).div(exact.norm(2, -1)).flatten());
    for (double x : sink.Values(kKvRowsFraction)) kv_rows_.push_back(x);
    for (double x : sink.Values(kSampleBudget)) budgets_.push_back(x);
    at::Tensor supported = at::ones({in.query_heads()}, at::kDouble);
    for (const MetricRecord& record : sink.records()) {
      if (record.metric == &kGuaranteeMetFraction) supported[record.head].fill_(record.value);
    }
    supported_.push_back(supported);
  }

  bool OfOutput() const { return pipeline_["maskers"].back().value("guarantee", "") == "output"; }

  // Prints a row; its record.
  Json Report(const Options& options) const {
    const at::Tensor denominator = at::cat(denominators_), output = at::cat(outputs_);
    const at::Tensor supported = at::cat(supported_);
    const at::Tensor promised = OfOutput() ? output : denominator;
    const at::Tensor failed = promised.le(options.epsilon).logical_not();  // NaN fails
    const int64_t pairs = promised.numel(), failures = failed.sum().item<int64_t>();
    const int64_t supported_pairs = supported.sum().item<int64_t>();
    const int64_t supported_failures = failed.mul(supported).sum().item<int64_t>();
    const auto share = [](int64_t part, int64_t whole) {
      return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
    };
    const Interval interval = WilsonInterval(failures, pairs);
    std::printf(
        "%-39s %6lld %6.2f%% %5.2f-%5.2f%% %8.0f%% %6.2f%% %7.0f %7.1f%% %7.4f %7.4f %7.4f "
        "%7.4f\n",
        name_.c_str(), static_cast<long long>(pairs), 100 * share(failures, pairs),
        100 * interval.low, 100 * interval.high, 100 * share(supported_pairs, pairs),
        100 * share(supported_failures, supported_pairs), Mean(budgets_), 100 * Mean(kv_rows_),
        Quantile(denominator, 0.5), Quantile(denominator, 1 - options.delta), Quantile(output, 0.5),
        Quantile(output, 1 - options.delta));
    return {{"name", name_},
            {"pipeline", pipeline_},
            {"pairs", pairs},
            {"failures", failures},
            {"failure_interval", {interval.low, interval.high}},
            {"supported_pairs", supported_pairs},
            {"supported_failures", supported_failures},
            {"mean_budget", Mean(budgets_)},
            {"kv_rows_fraction", Mean(kv_rows_)},
            {"median_denominator_error", Quantile(denominator, 0.5)},
            {"median_output_error", Quantile(output, 0.5)}};
  }

 private:
  std::string name_;
  Json pipeline_;
  std::unique_ptr<const EfficientAttention> engine_;
  AttentionSession session_;
  std::vector<at::Tensor> denominators_, outputs_;  // relative errors, by pair
  std::vector<at::Tensor> supported_;               // by pair, 1 or 0
  std::vector<double> kv_rows_, budgets_;
};

class Benchmark {
 public:
  explicit Benchmark(const Options& options)
      : options_(options), dense_(EngineOf({{"type", "efficient"}, {"maskers", Json::array()}})) {}

  Json OnRandomData() {
    const std::string weights =
        (std::filesystem::temp_directory_path() / "guarantee_hash.safetensors").string();
    WriteHashAttentionFile(
        weights,
        {{.query_heads = kHeads, .key_heads = kKvHeads, .dim = kDim, .bits = 32, .hidden = 128}});
    cases_ = Cases(weights);
    const int64_t steps = (options_.pairs + kHeads - 1) / kHeads;
    RandomTensors random(1);
    AttentionInputs all;
    all.causal = true;
    all.q = random.Normal({1, kHeads, 0, kDim}, at::kBFloat16);
    all.k = random.Normal({1, kKvHeads, options_.keys + steps, kDim}, at::kBFloat16);
    all.v = random.Normal(all.k.sizes(), at::kBFloat16);
    AttentionInputs in = all;
    const auto take = [&](int64_t keys) {
      in.k = all.k.narrow(2, 0, keys);
      in.v = all.v.narrow(2, 0, keys);
    };
    take(options_.keys);
    for (Case& one : cases_) one.Prepare(in);
    for (int64_t step = 1; step <= steps; ++step) {
      in.q = random.Normal({1, kHeads, 1, kDim}, at::kBFloat16);
      take(options_.keys + step);
      Step(in);
    }
    std::printf("random normal data, %lld/%lld heads, dim %lld, from %lld keys\n",
                static_cast<long long>(kHeads), static_cast<long long>(kKvHeads),
                static_cast<long long>(kDim), static_cast<long long>(options_.keys));
    return Report("random");
  }

  absl::StatusOr<Json> OnModel() {
    SA_ASSIGN_OR_RETURN(const auto adapter, HuggingFaceAdapter::Load(options_.model, {}));
    SA_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                        FirstTokens(*adapter, options_.text, options_.context + options_.tokens));
    cases_ = Cases(options_.model + "/hash_attention.safetensors");
    const DecoderModel& model = adapter->model();
    SA_ASSIGN_OR_RETURN(const auto reader, HostAttention::Create());
    AttentionSession reading;
    const AttentionFunction measured =
        [&](const AttentionInputs& in) -> absl::StatusOr<at::Tensor> { return Step(in); };
    SA_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(options_.context + options_.tokens));
    const absl::Span<const int32_t> span(tokens);
    SA_RETURN_IF_ERROR(model
                           .Forward(span.subspan(0, options_.context), &cache,
                                    reader->Bind(&reading), {.logits = 0, .tokens_per_pass = 4096})
                           .status());
    for (int64_t i = 0; i < options_.tokens; ++i) {
      SA_RETURN_IF_ERROR(
          model.Forward(span.subspan(options_.context + i, 1), &cache, measured, {.logits = 0})
              .status());
    }
    std::printf("%s reads %s, tokens %lld to %lld, all layers\n", options_.model.c_str(),
                options_.text.c_str(), static_cast<long long>(options_.context),
                static_cast<long long>(options_.context + options_.tokens));
    return Report("model");
  }

 private:
  std::vector<Case> Cases(const std::string& hash_weights) const {
    std::vector<Case> cases;
    const auto add = [&](const std::string& name, const char* selection, const Json& top_k,
                         const char* guarantee) {
      cases.emplace_back(name + ", " + selection + ", " + guarantee,
                         Json{{"type", "efficient"},
                              {"selection", selection},
                              {"group_reduce", "sum"},
                              {"maskers",
                               {{{"type", "sink"}, {"sink_size", 128}},
                                {{"type", "local"}, {"window_size", 128}},
                                top_k,
                                {{"type", "adaptive_sampling"},
                                 {"base_rate_sampling", 0.02},
                                 {"epsilon", options_.epsilon},
                                 {"delta", options_.delta},
                                 {"init_offset", 128},
                                 {"local_offset", 128},
                                 {"guarantee", guarantee}}}}});
    };
    const Json hash = {
        {"type", "hash_attention_top_k"}, {"heavy_size", 0.02}, {"hat_weight_file", hash_weights}};
    for (const char* guarantee : {"denominator", "output"}) {
      for (const char* selection : {"kv_group", "query_head"}) {
        add("HashAttention", selection, hash, guarantee);
      }
    }
    add("oracle", "query_head", {{"type", "oracle_top_k"}, {"heavy_size", 0.02}}, "denominator");
    return cases;
  }

  at::Tensor Step(const AttentionInputs& in) {
    at::Tensor lse;
    const auto out = dense_->Run(in, &session_, nullptr, &lse);
    SA_CHECK_OK(out.status());
    for (Case& one : cases_) {
      if (!one.OfOutput() || steps_ % 8 == 0) one.Step(in, *out, lse);
    }
    ++steps_;
    return *out;
  }

  Json Report(const char* data) const {
    std::printf("%-39s %6s %7s %12s %9s %7s %7s %8s %7s %7s %7s %7s\n",
                "2 % top-k by, selection, promise", "pairs", "failed", "95 %", "supported",
                "failed", "budget", "KV rows", "denom.", "worst", "output", "worst");
    Json records = Json::array();
    for (const Case& one : cases_) {
      records.push_back(one.Report(options_));
      records.back()["data"] = data;
    }
    std::printf("\n");
    std::fflush(stdout);
    return records;
  }

  const Options options_;
  const std::unique_ptr<const EfficientAttention> dense_;
  AttentionSession session_;
  std::vector<Case> cases_;
  int64_t steps_ = 0;
};

absl::Status Run(Options options) {
  if (options.model.empty()) {
    SA_ASSIGN_OR_RETURN(options.model, ShippedFile("models/retrieval-6m"));
  } else {
    options.model = UserPath(options.model);
  }
  if (options.text.empty()) {
    SA_ASSIGN_OR_RETURN(options.text, ShippedFile("evaluation/haystack/persuasion.txt"));
  } else {
    options.text = UserPath(options.text);
  }
  const c10::InferenceMode no_gradients;
  std::printf(
      "epsilon %g, delta %g: at most %g %% of the pairs of a query head and a query may fail\n\n",
      options.epsilon, options.delta, 100 * options.delta);
  Json records = Benchmark(options).OnRandomData();
  SA_ASSIGN_OR_RETURN(const Json of_model, Benchmark(options).OnModel());
  for (const Json& record : of_model) records.push_back(record);
  std::printf(
      "failed: the error of what is promised (denominator or output) is beyond epsilon. supported: "
      "pairs whose base sample supports the promise (guarantee_met), and how many of these failed. "
      "budget: keys drawn. KV rows: read for a group, of all; base samples with values count "
      "beside "
      "what is attended. denom. and output: medians of the relative errors; worst: what a share of "
      "delta exceeds. Heads of a group share draws under kv_group, so that its interval is too "
      "narrow.\n");
  if (!options.json.empty()) {
    std::ofstream file(UserPath(options.json));
    file << records.dump(1) << "\n";
    if (!file) return absl::InternalError("--json: cannot write " + options.json);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  CLI::App app("How often vAttention's promise fails in the efficient engine.");
  sparse_attention::Options options;
  app.add_option("--keys", options.keys, "Keys of the random data.")
      ->check(CLI::Range(1024, 1 << 20))
      ->capture_default_str();
  app.add_option("--pairs", options.pairs, "Pairs of a query head and a query, random data.")
      ->check(CLI::Range(32, 1 << 24))
      ->capture_default_str();
  app.add_option("--context", options.context, "Tokens that the model reads first.")
      ->check(CLI::Range(1024, 1 << 20))
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "Tokens whose queries are measured.")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--epsilon", options.epsilon)
      ->check(CLI::Range(1e-4, 0.9999))
      ->capture_default_str();
  app.add_option("--delta", options.delta)->check(CLI::Range(1e-6, 0.9999))->capture_default_str();
  app.add_option("--model", options.model, "Checkpoint folder with hash_attention.safetensors.");
  app.add_option("--text", options.text, "Text that the model reads.");
  app.add_option("--json", options.json, "Write records to this file.");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = sparse_attention::Run(options);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
