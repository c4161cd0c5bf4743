#include "evaluation/runner.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/host_attention.h"
#include "adapters/huggingface/prefilled_context.h"
#include "evaluation/journal.h"
#include "evaluation/step_accumulator.h"
#include "evaluation/tasks.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {
namespace {

constexpr int64_t kScoredTokens = 512;
// Bounds the logits that the research engine holds: [heads, tokens per pass, keys].
constexpr int64_t kTokensPerPass = 64;
// Room for question and answer beside the context, in positions.
constexpr int64_t kQuestionRoom = 128;
// Samples of a cell that run once more without measuring, for the time a token takes.
constexpr int64_t kTimedSamples = 2;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One context that has been read, with what is asked about it.
struct Prompt {
  TaskSample sample;              // tasks with answers
  std::vector<int32_t> question;  // or the tokens to score
  std::unique_ptr<PrefilledContext> context;
};

class Evaluation {
 public:
  Evaluation(const HuggingFaceAdapter& adapter, const Haystack& haystack,
             const EvaluationOptions& options)
      : adapter_(adapter), haystack_(haystack), options_(options) {}

  absl::StatusOr<std::vector<Cell>> Run() {
    SA_RETURN_IF_ERROR(CheckOptions());
    for (const NamedPipeline& pipeline : options_.pipelines) {
      absl::StatusOr<std::unique_ptr<const HostAttention>> attention =
          HostAttention::Create(ResolveModelPaths(pipeline.config, adapter_.folder()));
      if (!attention.ok()) return Annotate(attention.status(), pipeline.name);
      attentions_.push_back(*std::move(attention));
    }
    SA_RETURN_IF_ERROR(OpenJournal());
    MakeCells();
    progress_.total = static_cast<int64_t>(cells_.size()) * options_.samples;
    start_ = std::chrono::steady_clock::now();
    for (int64_t context : options_.contexts) {
      for (const std::string& task : options_.tasks) {
        for (int64_t sample = 0; sample < options_.samples; ++sample) {
          SA_RETURN_IF_ERROR(
              Annotate(RunSample(task, context, sample),
                       absl::StrCat("task ", task, ", context ", context, ", sample ", sample)));
        }
      }
    }
    return std::move(cells_);
  }

 private:
  absl::Status CheckOptions() const {
    std::vector<std::string> known(TaskNames().begin(), TaskNames().end());
    known.push_back(kPerplexityTask);
    for (const std::string& task : options_.tasks) {
      if (std::find(known.begin(), known.end(), task) == known.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("there is no task \"", task, "\" (did you mean \"",
                         NearestName(task, known), "\"? tasks: ", absl::StrJoin(known, ", "), ")"));
      }
    }
    if (options_.tasks.empty() || options_.contexts.empty() || options_.pipelines.empty()) {
      return absl::InvalidArgumentError("an evaluation needs a task, a context and a config");
    }
    if (options_.samples < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("samples must be >= 1, got ", options_.samples));
    }
    const int64_t positions = adapter_.model().config().max_position_embeddings;
    for (int64_t context : options_.contexts) {
      if (context < 2 * kScoredTokens || context > positions) {
        return absl::InvalidArgumentError(
            absl::StrCat("context must be in [", 2 * kScoredTokens, ", ", positions,
                         "], the model's max_position_embeddings, got ", context));
      }
    }
    std::set<std::string> names;
    for (const NamedPipeline& pipeline : options_.pipelines) {
      const absl::string_view engine = EnumName(pipeline.config.type);
      if (!names.insert(absl::StrCat(pipeline.name, " ", engine)).second) {
        return absl::InvalidArgumentError(absl::StrCat(
            "two configs of the ", engine, " engine are named \"", pipeline.name, "\""));
      }
    }
    return absl::OkStatus();
  }

  absl::Status OpenJournal() {
    std::error_code error;
    std::filesystem::create_directories(options_.out, error);
    if (error) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.out, ": cannot be made: ", error.message()));
    }
    if (!options_.resume && Journal::Exists(options_.out)) {
      return absl::FailedPreconditionError(
          absl::StrCat(options_.out,
                       " holds the results of an earlier run: pass --resume to go on "
                       "with it, or name another folder"));
    }
    SA_ASSIGN_OR_RETURN(journal_, Journal::Open(options_.out));
    return absl::OkStatus();
  }

  void MakeCells() {
    for (int64_t context : options_.contexts) {
      for (const std::string& task : options_.tasks) {
        for (size_t i = 0; i < attentions_.size(); ++i) {
          Cell cell;
          cell.config = options_.pipelines[i].name;
          cell.engine = std::string(EnumName(options_.pipelines[i].config.type));
          cell.task = task;
          cell.context = context;
          cell.oracle = attentions_[i]->IsOracle();
          cells_.push_back(std::move(cell));
        }
      }
    }
  }

  Cell& CellOf(int64_t context, absl::string_view task, size_t pipeline) {
    const NamedPipeline& named = options_.pipelines[pipeline];
    return *std::find_if(cells_.begin(), cells_.end(), [&](const Cell& cell) {
      return cell.context == context && cell.task == task && cell.config == named.name &&
             cell.engine == EnumName(named.config.type);
    });
  }

  std::string Key(size_t pipeline, absl::string_view task, int64_t context, int64_t sample) const {
    const NamedPipeline& named = options_.pipelines[pipeline];
    return StableHash(absl::StrCat(DumpJson(PipelineToJson(named.config)), "\n", named.name, "\n",
                                   options_.model_id, "\n", task, "\n", context, "\n", sample, "\n",
                                   options_.seed));
  }

  absl::Status RunSample(const std::string& task, int64_t context, int64_t sample) {
    progress_.current = absl::StrCat(task, " ", context, ", sample ", sample + 1);
    Report();
    std::unique_ptr<Prompt> prompt;  // made only if a result is missing
    for (size_t i = 0; i < attentions_.size(); ++i) {
      const std::string key = Key(i, task, context, sample);
      const SampleResult* known = journal_->Find(key);
      if (known == nullptr) {
        if (prompt == nullptr) {
          SA_ASSIGN_OR_RETURN(prompt, MakePrompt(task, context, sample));
        }
        absl::StatusOr<SampleResult> result = Measure(*prompt, *attentions_[i], sample);
        if (!result.ok()) return Annotate(result.status(), options_.pipelines[i].name);
        result->key = key;
        result->config = options_.pipelines[i].name;
        result->task = task;
        result->context = context;
        result->sample = sample;
        SA_RETURN_IF_ERROR(journal_->Append(*result));
        known = journal_->Find(key);
      } else {
        ++progress_.reused;
      }
      CellOf(context, task, i).samples.push_back(*known);
      ++progress_.done;
    }
    Report();
    return WriteResults(absl::StrCat(options_.out, "/results.json"), cells_);
  }

  absl::StatusOr<std::unique_ptr<Prompt>> MakePrompt(const std::string& task, int64_t context,
                                                     int64_t sample) const {
    const TokenCounter count = [this](absl::string_view text) -> absl::StatusOr<int64_t> {
      SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, adapter_.tokenizer().Encode(text));
      return static_cast<int64_t>(ids.size());
    };
    auto prompt = std::make_unique<Prompt>();
    std::vector<int32_t> tokens;
    if (task == kPerplexityTask) {
      SA_ASSIGN_OR_RETURN(const std::string passage,
                          MakePassage(haystack_, context, options_.seed, sample, count));
      SA_ASSIGN_OR_RETURN(tokens, adapter_.EncodeContext(passage));
      // One more than is scored: the first scored token is predicted from the token before it.
      prompt->question.assign(tokens.end() - kScoredTokens - 1, tokens.end());
      tokens.resize(tokens.size() - prompt->question.size());
    } else {
      SA_ASSIGN_OR_RETURN(prompt->sample,
                          MakeSample(task, haystack_, context, options_.seed, sample, count));
      SA_ASSIGN_OR_RETURN(tokens, adapter_.EncodeContext(prompt->sample.context));
      SA_ASSIGN_OR_RETURN(prompt->question,
                          adapter_.EncodeQuestion(
                              absl::StrCat(prompt->sample.question, prompt->sample.answer_prefix)));
    }
    PrefillOptions prefill;
    prefill.room = kScoredTokens + kQuestionRoom;
    SA_ASSIGN_OR_RETURN(prompt->context,
                        PrefilledContext::Create(&adapter_.model(), tokens, prefill));
    return prompt;
  }

  absl::StatusOr<SampleResult> Measure(Prompt& prompt, const HostAttention& attention,
                                       int64_t sample) const {
    StepAccumulator accumulator;
    SampleResult result;
    if (prompt.sample.answers.empty()) {
      SA_RETURN_IF_ERROR(MeasurePerplexity(prompt, attention, sample, &accumulator, &result));
    } else {
      AnswerOptions answer;
      answer.max_new_tokens = prompt.sample.max_new_tokens;
      for (int32_t id : adapter_.generation_config().eos_token_ids) {
        answer.eos_token_ids.push_back(id);
      }
      answer.sink = &accumulator;
      SA_ASSIGN_OR_RETURN(const Generation generation,
                          prompt.context->Answer(prompt.question, attention, answer));
      SA_ASSIGN_OR_RETURN(result.prediction, adapter_.tokenizer().Decode(generation.tokens));
      result.score = Score(prompt.sample, result.prediction);
      if (sample < kTimedSamples) {
        answer.sink = nullptr;
        SA_ASSIGN_OR_RETURN(const Generation timed,
                            prompt.context->Answer(prompt.question, attention, answer));
        const int64_t steps = static_cast<int64_t>(timed.tokens.size()) - 1;
        result.ms_per_token = steps > 0 ? 1e3 * timed.decode_seconds / static_cast<double>(steps)
                                        : 1e3 * timed.question_seconds;
      }
    }
    result.measurements = accumulator.Result();
    return result;
  }

  absl::Status MeasurePerplexity(Prompt& prompt, const HostAttention& attention, int64_t sample,
                                 StepAccumulator* accumulator, SampleResult* result) const {
    return CatchTorch([&]() -> absl::Status {
      const absl::Span<const int32_t> read(prompt.question.data(), kScoredTokens);
      const std::vector<int64_t> next(prompt.question.begin() + 1, prompt.question.end());
      LogitsOptions options;
      options.tokens_per_pass = kTokensPerPass;
      options.sink = accumulator;
      SA_ASSIGN_OR_RETURN(const at::Tensor logits,
                          prompt.context->Logits(read, attention, options));
      const at::Tensor target = at::tensor(next, at::kLong).to(logits.device()).unsqueeze(1);
      result->score =
          -at::log_softmax(logits, 1, at::kDouble).gather(1, target).mean().item<double>();
      if (sample < kTimedSamples) {
        options.sink = nullptr;
        const auto start = std::chrono::steady_clock::now();
        SA_RETURN_IF_ERROR(prompt.context->Logits(read, attention, options).status());
        result->ms_per_token = 1e3 * SecondsSince(start) / kScoredTokens;
      }
      return absl::OkStatus();
    });
  }

  void Report() {
    progress_.seconds = SecondsSince(start_);
    if (options_.on_progress) options_.on_progress(progress_);
  }

  const HuggingFaceAdapter& adapter_;
  const Haystack& haystack_;
  const EvaluationOptions& options_;
  std::vector<std::unique_ptr<const HostAttention>> attentions_;  // of options_.pipelines
  std::unique_ptr<Journal> journal_;
  std::vector<Cell> cells_;
  EvaluationProgress progress_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

absl::StatusOr<std::vector<Cell>> RunEvaluation(const HuggingFaceAdapter& adapter,
                                                const Haystack& haystack,
                                                const EvaluationOptions& options) {
  return Evaluation(adapter, haystack, options).Run();
}

absl::StatusOr<std::string> ModelFingerprint(const std::string& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".json" || entry.path().extension() == ".safetensors") {
      files.push_back(entry.path());
    }
  }
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  std::string text;
  for (const auto& path : files) {
    std::string start(1 << 20, '\0');
    std::ifstream file(path, std::ios::binary);
    file.read(start.data(), static_cast<std::streamsize>(start.size()));
    start.resize(static_cast<size_t>(file.gcount()));
    absl::StrAppend(&text, path.filename().string(), " ", std::filesystem::file_size(path, error),
                    " ", start, "\n");
  }
  return StableHash(text);
}

}  // namespace sparse_attention
