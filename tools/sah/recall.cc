// `sah recall`: how many of the keys that matter a masker finds, on a model that reads a text.
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "evaluation/index_recall.h"
#include "sparse_attention/base/status.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

struct RecallArguments {
  std::string model;
  std::string text;
  std::vector<std::string> maskers;
  std::string device = "cpu";
  std::string dtype = "auto";
  int64_t tokens = 4096;
  RecallOptions options;
};

absl::Status Recall(const RecallArguments& arguments) {
  std::vector<KeySelector> selectors;
  for (const std::string& text : arguments.maskers) {
    const std::string place = absl::StrCat("--masker ", text);
    const absl::StatusOr<Json> json = ParseJson(text);
    if (!json.ok()) return Annotate(json.status(), place);
    absl::StatusOr<KeySelector> selector = SelectorFromJson(*json);
    if (!selector.ok()) return Annotate(selector.status(), place);
    selectors.push_back(*std::move(selector));
  }
  HuggingFaceOptions load;
  load.decoder.device = arguments.device;
  load.decoder.dtype = arguments.dtype;
  SA_ASSIGN_OR_RETURN(const auto adapter,
                      HuggingFaceAdapter::Load(UserPath(arguments.model), load));
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                      FirstTokens(*adapter, UserPath(arguments.text), arguments.tokens));
  SA_ASSIGN_OR_RETURN(const std::vector<IndexRecall> results,
                      MeasureIndexRecall(adapter->model(), tokens, selectors, arguments.options));
  std::cout << absl::StrFormat(
      "the %g %% keys with the highest logits of each query, last %d of %d tokens\n"
      "recall  kept    recall of each layer\n",
      100 * arguments.options.top, arguments.options.queries, tokens.size());
  for (size_t i = 0; i < results.size(); ++i) {
    std::cout << absl::StrFormat("%.3f  %5.1f%% ", results[i].recall, 100 * results[i].kept);
    for (const double recall : results[i].recall_of_layer) {
      std::cout << absl::StrFormat(" %.3f", recall);
    }
    std::cout << "  " << arguments.maskers[i] << "\n";
  }
  return absl::OkStatus();
}

}  // namespace

void AddRecall(CLI::App& app, absl::Status* status) {
  CLI::App* command =
      app.add_subcommand("recall", "Measure how many of the keys that matter a masker finds");
  auto a = std::make_shared<RecallArguments>();
  command->add_option("--model", a->model, "Checkpoint folder")->required();
  command->add_option("--text", a->text, "Text file that the model reads")->required();
  command
      ->add_option("--masker", a->maskers,
                   "A masker as in a pipeline, {\"type\": ...}; may be repeated")
      ->required();
  command->add_option("--tokens", a->tokens, "Tokens of the text to read")->capture_default_str();
  command->add_option("--queries", a->options.queries, "The last tokens, which are measured")
      ->capture_default_str();
  command->add_option("--top", a->options.top, "The keys that matter, as a share of all keys")
      ->capture_default_str();
  command->add_option("--device", a->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--dtype", a->dtype, "auto (the checkpoint's), float32 or bfloat16")
      ->capture_default_str();
  command->callback([a, status] { *status = Recall(*a); });
}

}  // namespace sparse_attention
