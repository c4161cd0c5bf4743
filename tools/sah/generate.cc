// `sah generate`: answers from a model with sparse attention, streamed as they are decoded.
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "sparse_attention/base/status.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

struct GenerateArguments {
  std::string model;
  std::string context;
  std::string context_file;
  std::vector<std::string> questions;
  std::string answer_prefix;
  std::string config = "dense";
  std::string engine;
  std::string device = "cpu";
  std::string dtype = "auto";
  int64_t max_new_tokens = 50;
  bool quiet = false;
};

absl::Status Generate(const GenerateArguments& arguments) {
  Request request;
  request.context = arguments.context;
  if (!arguments.context_file.empty()) {
    const std::string path = UserPath(arguments.context_file);
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat("--context-file: cannot read ", path));
    request.context.assign(std::istreambuf_iterator<char>(file), {});
  }
  request.questions = arguments.questions;
  request.answer_prefix = arguments.answer_prefix;
  HuggingFaceOptions load;
  load.decoder.device = arguments.device;
  load.decoder.dtype = arguments.dtype;
  SA_ASSIGN_OR_RETURN(const NamedPipeline pipeline,
                      LoadPipeline(arguments.config, arguments.engine));
  load.pipeline = pipeline.config;
  SA_ASSIGN_OR_RETURN(const auto adapter,
                      HuggingFaceAdapter::Load(UserPath(arguments.model), load));

  GenerationOptions options;
  options.max_new_tokens = arguments.max_new_tokens;
  int64_t current = 0;
  options.on_text = [&current](int64_t question, absl::string_view piece) {
    if (question != current) std::cout << "\n";
    current = question;
    std::cout << piece << std::flush;
  };
  SA_ASSIGN_OR_RETURN(const Response response, adapter->ProcessRequest(request, options));
  std::cout << "\n";
  if (arguments.quiet) return absl::OkStatus();
  std::cerr << absl::StrFormat("%s (%s): %d context tokens in %.2f s", pipeline.name,
                               EnumName(pipeline.config.type), response.context_tokens,
                               response.prefill_seconds);
  for (const Answer& answer : response.answers) {
    const Generation& g = answer.generation;
    std::cerr << absl::StrFormat("; %d question tokens in %.2f s, %d answer tokens in %.2f s (%s)",
                                 g.question_tokens, g.question_seconds, g.tokens.size(),
                                 g.decode_seconds, StopReasonName(g.stop_reason));
  }
  std::cerr << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, absl::Status* status) {
  CLI::App* command = app.add_subcommand("generate", "Answer questions about a context");
  auto a = std::make_shared<GenerateArguments>();
  command->add_option("--model", a->model, "Checkpoint folder")->required();
  CLI::Option* text = command->add_option("--context", a->context, "Text that is read once");
  command->add_option("--context-file", a->context_file, "File that is read once")->excludes(text);
  command
      ->add_option("--question", a->questions,
                   "Text after the context; may be repeated, each answered on its own")
      ->required();
  command->add_option("--answer-prefix", a->answer_prefix, "First words of every answer");
  command->add_option("--config", a->config, "A pipeline as a JSON file, or a preset of configs/")
      ->capture_default_str();
  AddEngineOption(command, &a->engine);
  command->add_option("--device", a->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--dtype", a->dtype, "auto (the checkpoint's), float32 or bfloat16")
      ->capture_default_str();
  command->add_option("--max-new-tokens", a->max_new_tokens, "Longest answer")
      ->capture_default_str();
  command->add_flag("--quiet", a->quiet, "Print the answers only");
  command->callback([a, status] { *status = Generate(*a); });
}

}  // namespace sparse_attention
