// `sah evaluate`: what sparse attention configs cost and lose on a model.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evaluation/runner.h"
#include "sparse_attention/base/status.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

struct EvaluateArguments {
  std::string model;
  std::vector<std::string> tasks = {"niah_single", "niah_multikey", "niah_multivalue",
                                    "variable_tracking"};
  std::vector<int64_t> contexts = {4096};
  std::vector<std::string> configs;
  std::vector<std::string> engines;
  std::string haystack;
  std::string out = "results";
  std::string device = "cpu";
  std::string dtype = "auto";
  int64_t samples = 8;
  uint64_t seed = 42;
  bool resume = false;
};

std::string Minutes(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  return absl::StrFormat("%d:%02d", s / 60, s % 60);
}

// A bar that rewrites itself on a terminal; elsewhere a line for every tenth of the work.
class ProgressPrinter {
 public:
  void operator()(const EvaluationProgress& p) {
    const int64_t fresh = p.done - p.reused;
    std::string left;
    if (fresh > 0) {
      left = absl::StrCat(
          ", ",
          Minutes(p.seconds / static_cast<double>(fresh) * static_cast<double>(p.total - p.done)),
          " left");
    }
    if (IsTerminal()) {
      const int filled = static_cast<int>(20 * p.done / p.total);
      std::cerr << absl::StrFormat("\r\033[K[%s%s] %d/%d, %s%s", std::string(filled, '#'),
                                   std::string(20 - filled, '.'), p.done, p.total, p.current, left)
                << std::flush;
      if (p.done == p.total) std::cerr << "\r\033[K" << std::flush;
      return;
    }
    const int64_t tenth = 10 * p.done / p.total;
    if (tenth == printed_tenth_) return;
    printed_tenth_ = tenth;
    std::cerr << absl::StrFormat("%3d %% (%d/%d) after %s%s\n", 10 * tenth, p.done, p.total,
                                 Minutes(p.seconds), left);
  }

 private:
  int64_t printed_tenth_ = 0;
};

absl::Status Evaluate(const EvaluateArguments& arguments) {
  EvaluationOptions options;
  options.tasks = arguments.tasks;
  options.contexts = arguments.contexts;
  options.samples = arguments.samples;
  options.seed = arguments.seed;
  options.resume = arguments.resume;
  options.out = UserPath(arguments.out);
  for (const std::string& config : arguments.configs) {
    std::vector<std::string> engines = arguments.engines;
    if (engines.empty()) engines.emplace_back();  // the config's own
    for (const std::string& engine : engines) {
      SA_ASSIGN_OR_RETURN(NamedPipeline pipeline, LoadPipeline(config, engine));
      options.pipelines.push_back(std::move(pipeline));
    }
  }
  std::string haystack_path = UserPath(arguments.haystack);
  if (arguments.haystack.empty()) {
    SA_ASSIGN_OR_RETURN(haystack_path, ShippedFile("evaluation/haystack/persuasion.txt"));
  }
  SA_ASSIGN_OR_RETURN(const Haystack haystack, Haystack::FromFile(haystack_path));
  const std::string folder = UserPath(arguments.model);
  HuggingFaceOptions load;
  load.decoder.device = arguments.device;
  load.decoder.dtype = arguments.dtype;
  SA_ASSIGN_OR_RETURN(const auto adapter, HuggingFaceAdapter::Load(folder, load));
  SA_ASSIGN_OR_RETURN(const std::string fingerprint, ModelFingerprint(folder));
  options.model_id = absl::StrCat(fingerprint, " ", arguments.device, " ", arguments.dtype);
  options.on_progress = ProgressPrinter();

  const auto start = std::chrono::steady_clock::now();
  SA_ASSIGN_OR_RETURN(const std::vector<Cell> cells, RunEvaluation(*adapter, haystack, options));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << ResultsTable(cells)
            << absl::StrFormat("%d samples a cell, seed %d, %s, %s; %s\n", options.samples,
                               options.seed, arguments.device, arguments.model, Minutes(seconds));
  std::cout << "tasks: share of samples answered in full (perplexity: lower is better)\n"
               "density: keys attended over keys visible, a query head\n"
               "KV read: distinct K and V rows read, united over the query heads of a KV head\n"
               "index read: bytes read to choose keys, over the bytes of K and V; an oracle reads "
               "every key\n"
               "error: ||o - o_dense|| / ||o_dense|| a layer, head and token, mean and 95th "
               "percentile\n"
               "tokens/s: of an answer, measuring switched off\n";
  std::cout << "results: " << options.out << "/results.json\n";
  return absl::OkStatus();
}

}  // namespace

void AddEvaluate(CLI::App& app, absl::Status* status) {
  CLI::App* command =
      app.add_subcommand("evaluate", "Measure what sparse attention configs cost and lose");
  auto a = std::make_shared<EvaluateArguments>();
  command->add_option("--model", a->model, "Checkpoint folder")->required();
  command->add_option("--tasks", a->tasks, "Tasks, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--context", a->contexts, "Context lengths in tokens, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--config", a->configs,
                   "A pipeline as a JSON file, or a preset of configs/; once for each config")
      ->delimiter(',')
      ->required();
  AddEngineOption(command, &a->engines);
  command->add_option("--samples", a->samples, "Samples a cell")->capture_default_str();
  command->add_option("--seed", a->seed, "Seed of the samples")->capture_default_str();
  command->add_option("--device", a->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--dtype", a->dtype, "auto (the checkpoint's), float32 or bfloat16")
      ->capture_default_str();
  command->add_option("--out", a->out, "Folder for results.json and the journal")
      ->capture_default_str();
  command->add_option("--haystack", a->haystack, "Text file to hide needles in (default: shipped)");
  command->add_flag("--resume", a->resume, "Go on with an interrupted run in --out");
  command->callback([a, status] { *status = Evaluate(*a); });
}

}  // namespace sparse_attention
