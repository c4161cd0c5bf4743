// The evaluation runner: tasks x contexts x samples x configs on one model, in this process.
//
// A sample's context is prefilled once, densely, and every config answers from that cache: question
// and answer attend sparsely. Perplexity scores the last 512 tokens of a passage, each attended
// sparsely over a densely prefilled prefix. The same seed gives the same samples and the same
// numbers, except for times.
#ifndef EVALUATION_RUNNER_H_
#define EVALUATION_RUNNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "evaluation/haystack.h"
#include "evaluation/results.h"
#include "sparse_attention/config/pipeline_config.h"

namespace sparse_attention {

struct NamedPipeline {
  std::string name;  // unique among those of an engine in a run
  PipelineConfig config;
};

struct EvaluationProgress {
  int64_t done = 0;  // (config, task, context, sample) results there are
  int64_t total = 0;
  int64_t reused = 0;   // of them from an earlier run
  double seconds = 0;   // spent in this run
  std::string current;  // "niah_single 8192, sample 3"
};

struct EvaluationOptions {
  std::vector<std::string> tasks;  // of TaskNames(), or "perplexity"
  std::vector<int64_t> contexts;   // tokens
  std::vector<NamedPipeline> pipelines;
  int64_t samples = 8;  // a cell
  uint64_t seed = 42;
  std::string out;  // folder for journal.jsonl and results.json, made if missing
  bool resume =
      false;  // go on with the journal in `out`; without it, a folder that has one is refused
  // Part of every journal key: a hash of the checkpoint, and of how it is run.
  std::string model_id;
  std::function<void(const EvaluationProgress&)> on_progress;
};

// InvalidArgument: an unknown task (the message lists all), no config, a repeated name, contexts
// that the model's positions cannot hold; FailedPrecondition: results without `resume`; errors of
// the model with config, task, context and sample before the message. Results written so far stay.
absl::StatusOr<std::vector<Cell>> RunEvaluation(const HuggingFaceAdapter& adapter,
                                                const Haystack& haystack,
                                                const EvaluationOptions& options);

// A hash of the folder's JSON and safetensors files, weights of indexes included: names, sizes and
// first mebibytes.
absl::StatusOr<std::string> ModelFingerprint(const std::string& folder);

}  // namespace sparse_attention

#endif  // EVALUATION_RUNNER_H_
