// `sah calibrate`: the channels of a model's queries and keys that Double Sparsity scores with.
#include <chrono>
#include <iostream>
#include <memory>

#include "absl/strings/str_format.h"
#include "adapters/host_attention.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/channel_calibration.h"
#include "sparse_attention/key_index/channel_file.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

struct CalibrateArguments {
  std::string model;
  std::string text;
  std::string out;
  std::string device = "cpu";
  std::string dtype = "auto";
  int64_t tokens = 4096;
  bool group = true;
};

absl::Status Calibrate(const CalibrateArguments& arguments) {
  HuggingFaceOptions load;
  load.decoder.device = arguments.device;
  load.decoder.dtype = arguments.dtype;
  SA_ASSIGN_OR_RETURN(const auto adapter,
                      HuggingFaceAdapter::Load(UserPath(arguments.model), load));
  const DecoderModel& model = adapter->model();
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                      FirstTokens(*adapter, UserPath(arguments.text), arguments.tokens));

  const auto start = std::chrono::steady_clock::now();
  SA_ASSIGN_OR_RETURN(const auto dense, HostAttention::Create());
  AttentionSession session;
  ChannelCalibration calibration(/*average_group=*/arguments.group);
  const AttentionFunction observed =
      [&](const AttentionInputs& inputs) -> absl::StatusOr<at::Tensor> {
    SA_RETURN_IF_ERROR(calibration.Add(inputs));
    return dense->Attend(inputs, &session);
  };
  SA_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(arguments.tokens));
  SA_RETURN_IF_ERROR(
      model.Forward(tokens, &cache, observed, {.logits = 0, .tokens_per_pass = 4096}).status());
  SA_ASSIGN_OR_RETURN(const ChannelFile channels, calibration.Channels());
  SA_RETURN_IF_ERROR(WriteChannelFile(UserPath(arguments.out), channels));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << absl::StrFormat("%s: channels of %d layers from %d tokens in %.1f s", arguments.out,
                               calibration.layers(), tokens.size(), seconds);
  if (calibration.skipped_rows() > 0) {
    std::cout << "; " << calibration.skipped_rows() << " rows were not finite and left out";
  }
  std::cout << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddCalibrate(CLI::App& app, absl::Status* status) {
  CLI::App* command =
      app.add_subcommand("calibrate", "Find the channels that Double Sparsity scores keys with");
  auto a = std::make_shared<CalibrateArguments>();
  command->add_option("--model", a->model, "Checkpoint folder")->required();
  command->add_option("--text", a->text, "Text file like those that the model will read")
      ->required();
  command->add_option("--out", a->out, "Channel file to write, JSON")->required();
  command->add_option("--tokens", a->tokens, "Tokens of the text to read")->capture_default_str();
  command->add_flag("--group,!--per-head", a->group,
                    "One list for the query heads that share a KV head (the default), or one for "
                    "every query head on its own");
  command->add_option("--device", a->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--dtype", a->dtype, "auto (the checkpoint's), float32 or bfloat16")
      ->capture_default_str();
  command->callback([a, status] { *status = Calibrate(*a); });
}

}  // namespace sparse_attention
